"""Which adapters beside a checkpoint are for it, by names and shapes."""

from pathlib import Path

import pytest
import torch

from model.adapters_beside import AdapterBeside, find_adapters
from model.formats import minimind
from model.formats.checkpoint import Checkpoint
from tests.model.formats.test_minimind import small_state
from tests.model.minimind_data import GOLDEN, needs_minimind

QUERY = "model.layers.0.self_attn.q_proj"  # [24, 16]


def save_adapter(path: Path, rank: int = 4, module: str = QUERY, **shapes: tuple[int, ...]) -> Path:
    path.parent.mkdir(exist_ok=True)
    sides = {"A": (rank, 16), "B": (24, rank)} | shapes
    torch.save({f"{module}.lora.{side}.weight": torch.zeros(shape) for side, shape in sides.items()}, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    torch.save(small_state(), tmp_path / "full_sft_16.pth")
    return minimind.read(tmp_path / "full_sft_16.pth")


def test_adapters_beside_the_checkpoint_and_below_it_are_found(checkpoint, tmp_path):
    paths = [save_adapter(tmp_path / name) for name in ("lora_a_16.pth", "lora/lora_b_16_moe.pth")]
    save_adapter(tmp_path / "lora_a_32.pth")  # named for another width

    assert [(found.path, found.rank) for found in find_adapters(checkpoint)] == [(path, 4) for path in paths]


def test_a_model_without_adapters_has_none(checkpoint):
    assert find_adapters(checkpoint) == ()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"B": (16, 4)}, "lora.B.weight has shape (16, 4); for this model it must be (24, 4)."),
        ({"A": (4, 24)}, "lora.A.weight has shape (4, 24); for this model it must be (4, 16)."),
        ({"A": (3, 16)}, "lora.B.weight has shape (24, 4); for this model it must be (24, 3)."),
        ({"module": "model.layers.2.self_attn.q_proj"}, "is for a matrix that this model has not."),
        ({"module": "layers.0.attention.wq"}, "for MiniMind before April 2025, which this model is not."),
    ],
)
def test_one_that_does_not_fit_is_told_with_the_reason(changes, problem, checkpoint, tmp_path):
    save_adapter(tmp_path / "lora_a_16.pth", **changes)
    (found,) = find_adapters(checkpoint)

    assert found.rank is None
    assert found.problem.endswith(problem)


def test_one_half_alone_does_not_fit(checkpoint, tmp_path):
    torch.save({f"{QUERY}.lora.A.weight": torch.zeros(4, 16)}, tmp_path / "lora_a_16.pth")

    assert find_adapters(checkpoint)[0].rank is None


def test_what_is_no_adapter_is_told_too(checkpoint, tmp_path):
    (tmp_path / "lora_a_16.pth").write_text("damaged")
    torch.save({}, tmp_path / "lora_b_16.pth")

    assert find_adapters(checkpoint) == (
        AdapterBeside(tmp_path / "lora_a_16.pth", None, "this is neither a GGUF file nor a PyTorch checkpoint."),
        AdapterBeside(tmp_path / "lora_b_16.pth", None, "there is no tensor of a LoRA adapter in it."),
    )


@needs_minimind
def test_minimind_s_own_adapter_fits(tmp_path):
    for file in (GOLDEN / "v3" / "full_sft_64.pth", GOLDEN / "v3-lora" / "lora_x_64.pth"):
        (tmp_path / file.name).symlink_to(file)

    (found,) = find_adapters(minimind.read(tmp_path / "full_sft_64.pth"))
    assert (found.rank, found.problem) == (16, "")
