"""MiniMind's native checkpoints of every generation: a `.pth` file of tensors and nothing else, as a `Checkpoint`.

Owns how such a file is opened; what its tensors are is `minimind_eras.py`'s. `torch.load` runs with
`weights_only=True`: what a file holds beyond tensors is refused, never executed.
"""

import pickle
import re
import struct
from pathlib import Path
from typing import Any

import torch

from model.errors import ModelError
from model.formats.checkpoint import Checkpoint, WeightTensor
from model.formats.minimind_eras import BUFFERS, canonical_names, checkpoint_of, detect_era, implied_config
from model.formats.torch_archive import check_archive

_ENCODINGS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_PREFIX = re.compile(r"^(_orig_mod\.|module\.)+")  # left by torch.compile and by data-parallel training

# What the unpickler lets through of a damaged file. It interprets bytes, so nearly anything can come of them.
_DAMAGE = (
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    OverflowError,
    struct.error,
)
_REASON = "WeightsUnpickler error: "
_ZIP_MAGIC = b"PK\x03\x04"


def read(path: Path) -> Checkpoint:
    """Raises ModelError, naming file and tensor, for whatever is no sound MiniMind checkpoint."""
    stored = read_state(path)
    era = detect_era(path, stored)
    weights = canonical_names(stored)
    return checkpoint_of(path, era, implied_config(path, era, weights), weights)


def read_state(path: Path) -> dict[str, WeightTensor]:
    """The tensors of a state dictionary, or of the one under `model` in a `*_resume.pth`, without prefixes and without
    buffers. Raises ModelError."""
    tensors = _read_tensors(path)
    wanted = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] not in BUFFERS}
    return {name: weight_from_torch(path, name, tensor) for name, tensor in wanted.items()}


def weight_from_torch(path: Path, name: str, tensor: torch.Tensor) -> WeightTensor:
    """The same memory as rows of bytes."""
    if tensor.dtype not in _ENCODINGS:
        known = ", ".join(_ENCODINGS.values())
        raise ModelError(path, f"tensor {name} is of {tensor.dtype}; only {known} can be read.")
    is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.is_contiguous()
    if not is_plain or tensor.ndim == 0:
        raise ModelError(path, f"tensor {name} is not stored as rows of numbers.")
    rows = tensor.detach().view(torch.uint8).numpy()
    return WeightTensor(tuple(tensor.shape), _ENCODINGS[tensor.dtype], rows, path, name)


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    state = _load(path)
    state = state["model"] if isinstance(state, dict) and isinstance(state.get("model"), dict) else state
    if not isinstance(state, dict):
        raise ModelError(path, f"holds a {type(state).__name__}, not named tensors.")
    tensors: dict[str, torch.Tensor] = {}
    for stored_name, tensor in state.items():
        if not isinstance(stored_name, str) or not isinstance(tensor, torch.Tensor):
            raise ModelError(path, f"holds {stored_name!r}, which is no tensor.")
        name = _PREFIX.sub("", stored_name)
        if name in tensors:
            raise ModelError(path, f"tensor {name} is there twice, with and without a prefix.")
        tensors[name] = tensor
    return tensors


def _load(path: Path) -> Any:
    """Memory-mapped, which only zip files can be; torch.save has written these since 2020."""
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
        if is_zip:
            check_archive(path)
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True) if is_zip else None
    except pickle.UnpicklingError as error:
        cause = "holds Python objects other than tensors, which are never loaded, or is damaged"
        raise ModelError(path, f"{cause} ({_reason(error)}).") from error
    except ModelError:
        raise
    except MemoryError as error:
        raise ModelError(path, "asks for more memory than the system gives: it is damaged, or no model.") from error
    except _DAMAGE as error:
        raise ModelError(path, f"is damaged or cut short and cannot be read: {_reason(error)}.") from error
    if not is_zip:
        raise ModelError(path, "is no zip file as torch.save writes it.")
    return state


def _reason(error: Exception) -> str:
    """One line of what torch says; for an object that it refuses, the line that names it. Not its advice, which is to
    load the file as a program."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "GLOBAL" in line]
    reasons = [line.partition(_REASON)[2] for line in lines if _REASON in line]
    others = [line for line in lines if "weights_only" not in line]
    return (named or reasons or others or [type(error).__name__])[0].rstrip(".")
