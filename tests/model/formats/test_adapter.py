"""What an adapter's tensors must be for a model, and what becomes of a model that one is merged into."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.errors import ModelError
from model.formats.adapter import Half, build_adapter, merge
from model.formats.checkpoint import WeightTensor
from tests.model.adapters import matrices_of, random_adapter
from tests.model.random_checkpoint import LLAMA, QWEN3_MOE, float32_tensor, random_checkpoint

Q = "model.layers.0.self_attn.q_proj.weight"  # [96, 48]
PATH = Path("file")


def half(side: str, shape: tuple[int, ...], weight: str = Q, name: str = "") -> Half:
    tensor = float32_tensor(PATH, name or f"{weight}.{side}", np.ones(shape, np.float32))
    return Half(weight, "A" if side == "A" else "B", tensor)


def test_the_scale_is_in_b() -> None:
    a, b = half("A", (2, 48)), replace(half("B", (96, 2)), scale=0.25)

    pair = build_adapter("x", PATH, LLAMA, [b, a]).pairs[Q]

    assert pair.rank == 2
    np.testing.assert_array_equal(pair.a, np.ones((2, 48)))
    np.testing.assert_array_equal(pair.b, np.full((96, 2), 0.25))


@pytest.mark.parametrize(
    ("halves", "problem"),
    [
        ([half("A", (2, 47)), half("B", (96, 2))], r"q_proj.weight.A has shape \(2, 47\); .* must be \(2, 48\)"),
        ([half("A", (2, 48)), half("B", (48, 2))], r"q_proj.weight.B has shape \(48, 2\); .* must be \(96, 2\)"),
        ([half("A", (2, 48)), half("B", (96, 3))], r"q_proj.weight.B has shape \(96, 3\); .* must be \(96, 2\)"),
        ([half("A", (48,)), half("B", (96, 48))], r"q_proj.weight.A has shape \(48,\)"),
        ([half("A", (0, 48)), half("B", (96, 0))], r"q_proj.weight.A has shape \(0, 48\)"),
        ([half("A", (2, 48))], "q_proj.weight.A has no B beside it"),
        ([half("B", (96, 2))], "q_proj.weight.B has no A beside it"),
        ([half("A", (2, 48)), half("A", (2, 48), name="again")], "again is there twice, as .*q_proj.weight.A too"),
        ([half("A", (2, 48), "model.layers.3.self_attn.q_proj.weight")], "layers.3.* is for a matrix that this model"),
        ([half("A", (2, 48), "model.embed_tokens.weight")], "embed_tokens.* is for a matrix that this model has not"),
        ([half("A", (2, 48), "model.norm.weight")], "norm.* is for a matrix that this model has not"),
        ([], "there is no tensor of a LoRA adapter in it"),
        ([half("A", (2, 48)), replace(half("B", (96, 2)), scale=1e39)], "q_proj.weight.B times 1e.39 is not finite"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_by_name(halves: list[Half], problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        build_adapter("x", PATH, LLAMA, halves)


def test_a_value_that_is_no_number_is_refused() -> None:
    a = half("A", (2, 48))
    broken = WeightTensor(a.tensor.shape, "F32", np.full_like(a.tensor.data, 0xFF), PATH, "broken")

    with pytest.raises(ModelError, match="'broken' has values that are not finite"):
        build_adapter("x", PATH, LLAMA, [replace(a, tensor=broken), half("B", (96, 2))])


def test_merging_adds_to_the_matrices_and_leaves_the_others() -> None:
    checkpoint, adapter = random_checkpoint(LLAMA, 3), random_adapter(LLAMA, 4, names=("q_proj", "down_proj"))

    merged = merge(checkpoint, adapter).weights

    changed = matrices_of(LLAMA, ("q_proj", "down_proj"))
    assert changed
    assert adapter.pairs.keys() == changed.keys()
    for name, tensor in checkpoint.weights.items():
        if name in changed:
            expected = tensor.to_float32() + adapter.pairs[name].b @ adapter.pairs[name].a
            np.testing.assert_array_equal(merged[name].to_float32(), expected)
        else:
            assert merged[name] is tensor


def test_an_expert_can_be_merged_into() -> None:
    weight, checkpoint = "model.layers.0.mlp.experts.5.down_proj.weight", random_checkpoint(QWEN3_MOE, 3)
    adapter = build_adapter("x", PATH, QWEN3_MOE, [half("A", (1, 32), weight), half("B", (48, 1), weight)])

    change = merge(checkpoint, adapter).weights[weight].to_float32() - checkpoint.weights[weight].to_float32()

    np.testing.assert_allclose(change, np.ones((48, 32)), rtol=1e-5)


def test_a_sum_that_is_not_finite_is_refused() -> None:
    checkpoint, huge = random_checkpoint(LLAMA, 3), replace(half("B", (96, 2)), scale=3e38)

    with pytest.raises(ModelError, match="q_proj.weight' is not finite once the adapter is merged"):
        merge(checkpoint, build_adapter("x", PATH, LLAMA, [half("A", (2, 48)), huge]))
