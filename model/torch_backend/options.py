"""What a user may ask of the torch backend, and what that means on this machine for this model. Each choice raises
ModelError where it is not possible."""

from dataclasses import dataclass

import torch

from model.errors import ModelError
from model.formats.checkpoint import Checkpoint
from model.options import DeviceName, DTypeName, IsolationChecksName, KVDTypeName

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class TorchOptions:
    device: DeviceName = "auto"
    dtype: DTypeName = "auto"
    kv_dtype: KVDTypeName = "auto"  # auto: the model's; not int8
    num_threads: int | None = None  # None: the physical cores this process may use
    max_model_len: int | None = None  # None: what the model was made for
    max_num_seqs: int = 64
    kv_cache_memory: int | None = None  # bytes; None: half of what is free
    debug_poison: bool = False
    isolation_checks: IsolationChecksName = "off"


def has_cuda() -> bool:
    return torch.cuda.is_available()


def choose_device(name: DeviceName, checkpoint: Checkpoint) -> torch.device:
    if name == "cuda" and not has_cuda():
        raise ModelError(checkpoint.path, "cannot be loaded on device cuda: torch finds no CUDA device here.")
    return torch.device("cuda", torch.cuda.current_device()) if name != "cpu" and has_cuda() else torch.device("cpu")


def choose_dtype(name: DTypeName, checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """On a CPU, auto is float32: there the torch backend is the reference, and float32 keeps every bit of the file's
    weights and a row's independence of its neighbours. On a GPU it is the file's own type, and bfloat16 for what the
    file holds quantised or in float32."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cpu":
        return torch.float32
    return torch.float16 if checkpoint.has_float16_matrices else torch.bfloat16
