from dataclasses import replace

import pytest
import torch

from model.errors import ModelError
from model.formats.checkpoint import Checkpoint
from model.torch_backend.options import choose_device, choose_dtype
from tests.model.random_checkpoint import LLAMA, random_checkpoint

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def encoded(matrices: str) -> Checkpoint:
    """Norms in float32, as files have them; the data of no matter."""
    checkpoint = random_checkpoint(LLAMA, 0)
    weights = {
        name: replace(tensor, encoding=matrices if len(tensor.shape) > 1 else "F32")
        for name, tensor in checkpoint.weights.items()
    }
    return replace(checkpoint, weights=weights)


@pytest.mark.parametrize("matrices", ["F32", "F16", "BF16", "Q4_1"])
def test_auto_is_float32_on_a_cpu(matrices: str) -> None:
    assert choose_dtype("auto", encoded(matrices), CPU) == torch.float32


@pytest.mark.parametrize(
    ("matrices", "dtype"),
    [("F16", torch.float16), ("BF16", torch.bfloat16), ("Q4_1", torch.bfloat16), ("F32", torch.bfloat16)],
)
def test_auto_is_the_files_own_half_precision_on_a_gpu(matrices: str, dtype: torch.dtype) -> None:
    assert choose_dtype("auto", encoded(matrices), CUDA) == dtype


def test_what_is_asked_for_is_what_is_used() -> None:
    assert choose_dtype("float16", encoded("F32"), CPU) == torch.float16
    assert choose_device("cpu", encoded("F32")) == CPU


def test_a_gpu_is_taken_where_there_is_one_and_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = encoded("F32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", checkpoint) == CPU
    with pytest.raises(ModelError, match="no CUDA device"):
        choose_device("cuda", checkpoint)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert choose_device("auto", checkpoint) == choose_device("cuda", checkpoint) == CUDA
