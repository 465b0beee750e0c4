"""MiniMind's adapter files: the golden one, and those that hold something else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import ModelConfig
from model.errors import ModelError
from model.formats import minimind, minimind_lora
from model.formats.adapter import Adapter, merge
from tests.model.adapters import minimind_state
from tests.model.minimind_data import GOLDEN, needs_minimind
from tests.model.random_checkpoint import LLAMA


def saved(
    tmp_path: Path, state: dict[str, torch.Tensor], config: ModelConfig = LLAMA, *, has_meta_names: bool = False
) -> Adapter:
    torch.save(state, path := tmp_path / "lora.pth")
    return minimind_lora.build("tuned", path, config, minimind.read_state(path), has_meta_names=has_meta_names)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_both_matrices_of_each_layer_are_read(prefix: str, tmp_path: Path) -> None:
    state = minimind_state(LLAMA)

    adapter = saved(tmp_path, {prefix + name: tensor for name, tensor in state.items()})

    assert len(adapter.pairs) == 2 * LLAMA.num_layers
    for weight, pair in adapter.pairs.items():
        module = weight.removesuffix(".weight")
        np.testing.assert_array_equal(pair.a, state[f"{module}.lora.A.weight"].float())
        np.testing.assert_array_equal(pair.b, state[f"{module}.lora.B.weight"].float())


@needs_minimind
def test_the_golden_file_is_for_the_golden_model() -> None:
    path, config = GOLDEN / "v3-lora/lora_x_64.pth", minimind.read(GOLDEN / "v3/full_sft_64.pth").config

    adapter = minimind_lora.build("x", path, config, minimind.read_state(path))

    assert {pair.rank for pair in adapter.pairs.values()} == {16}


def test_a_later_adapter_is_refused_for_an_early_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="of an adapter for MiniMind since April 2025, which this model is not"):
        saved(tmp_path, minimind_state(LLAMA), has_meta_names=True)


@needs_minimind
@pytest.mark.parametrize("era", ["v1", "v2-early"])
def test_an_adapter_of_an_early_era_changes_the_rows_that_it_changed_there(era: str, tmp_path: Path) -> None:
    """Merged into the file's own matrices before they are read, or into what is read of them."""
    file = GOLDEN / era / "full_sft_64.pth"
    stored, config = torch.load(file, weights_only=True), minimind.read(file).config
    state = {name.removeprefix("_orig_mod."): tensor for name, tensor in stored.items()}
    squares = [name for name in state if name.endswith(("wq.weight", "wo.weight"))]
    halves = {name: (torch.randn(4, 64), torch.randn(64, 4)) for name in squares}
    adapter = saved(
        tmp_path,
        {
            name.replace(".weight", f".lora.{side}.weight"): tensor
            for name, pair in halves.items()
            for side, tensor in zip("AB", pair, strict=True)
        },
        config,
        has_meta_names=True,
    )
    torch.save(state | {name: state[name].float() + b @ a for name, (a, b) in halves.items()}, tmp_path / "merged.pth")

    ours, theirs = merge(minimind.read(file), adapter), minimind.read(tmp_path / "merged.pth")

    assert len(adapter.pairs) == len(squares) == 4
    for name in adapter.pairs:
        np.testing.assert_allclose(ours.weights[name].to_float32(), theirs.weights[name].to_float32(), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("model.layers.0.mlp.up_proj.weight", "up_proj.weight is left over"),
        ("model.layers.0.self_attn.q_proj.lora.C.weight", "lora.C.weight is left over"),
        ("layers.0.attention.wq.lora.A.weight", "wq.lora.A.weight is of an adapter for MiniMind before April 2025"),
    ],
)
def test_another_tensor_is_refused_by_name(name: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=problem):
        saved(tmp_path, minimind_state(LLAMA) | {name: torch.zeros(2, 2)})
