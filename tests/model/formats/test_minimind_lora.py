"""MiniMind's adapter files: the golden one, and those that hold something else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import ModelConfig
from model.errors import ModelError
from model.formats import minimind, minimind_lora
from model.formats.adapter import Adapter
from tests.model.adapters import minimind_state
from tests.model.minimind_data import GOLDEN, needs_minimind
from tests.model.random_checkpoint import LLAMA


def saved(tmp_path: Path, state: dict[str, torch.Tensor], config: ModelConfig = LLAMA) -> Adapter:
    torch.save(state, path := tmp_path / "lora.pth")
    return minimind_lora.build("tuned", path, config, minimind.read_weights(path))


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

    adapter = minimind_lora.build("x", path, config, minimind.read_weights(path))

    assert {pair.rank for pair in adapter.pairs.values()} == {16}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("model.layers.0.mlp.up_proj.weight", "up_proj.weight is left over"),
        ("model.layers.0.self_attn.q_proj.lora.C.weight", "lora.C.weight is left over"),
        ("layers.0.attention.wq.lora.A.weight", "wq.lora.A.weight is of an adapter for MiniMind before 2025-04-26"),
    ],
)
def test_another_tensor_is_refused_by_name(name: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=problem):
        saved(tmp_path, minimind_state(LLAMA) | {name: torch.zeros(2, 2)})
