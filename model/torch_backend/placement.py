"""Where a model runs, in which types, on how many threads, and how large its KV cache may become."""

from dataclasses import dataclass

import psutil
import torch

from model.config import ModelConfig
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint
from model.memory import available_memory
from model.options import DeviceName, DTypeName
from model.torch_backend.kv_cache import BLOCK_SIZE
from model.torch_backend.weights import DTYPES_BY_ENCODING


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """What a user may ask of this backend; `auto` and None are "decide for me"."""

    device: DeviceName = "auto"
    dtype: DTypeName = "auto"
    kv_dtype: DTypeName = "auto"
    num_threads: int | None = None
    max_model_len: int | None = None  # tokens
    max_num_seqs: int = 64
    kv_cache_memory: int | None = None  # bytes
    debug_poison: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """The decisions."""

    path: str  # of the model, for error messages
    device: torch.device
    dtype: torch.dtype
    kv_dtype: torch.dtype
    num_threads: int
    max_model_len: int
    max_num_seqs: int
    kv_cache_memory: int | None

    def num_blocks(self, block_bytes: int) -> int:
        """Blocks of the KV cache; to be asked once the weights are in their place. Raises ModelError for none."""
        limit = self.kv_cache_memory
        if limit is None:
            most = self.max_num_seqs * -(-self.max_model_len // BLOCK_SIZE) * block_bytes
            limit = min(_free_memory(self.device) // 2, most)
        if limit < block_bytes:
            raise ModelError(
                self.path,
                f"the KV cache may have {limit:,} bytes, but one block of {BLOCK_SIZE} tokens takes {block_bytes:,}; "
                "see --kv-cache-memory.",
            )
        return limit // block_bytes


def place(checkpoint: Checkpoint, options: TorchOptions) -> Placement:
    """Raises ModelError for what this machine or this model does not have."""
    path = str(checkpoint.path)
    device = _device(path, options.device)
    dtype = _dtype(options.dtype) or _natural_dtype(checkpoint, device)
    return Placement(
        path=path,
        device=device,
        dtype=dtype,
        kv_dtype=_dtype(options.kv_dtype) or dtype,
        num_threads=options.num_threads or _num_cores(),
        max_model_len=_max_model_len(path, checkpoint.config, options.max_model_len),
        max_num_seqs=options.max_num_seqs,
        kv_cache_memory=options.kv_cache_memory,
    )


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _device(path: str, name: DeviceName) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError(path, "--device cuda: torch finds no CUDA device here; auto or cpu runs it on the CPU.")
    has_cuda = name != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if has_cuda else torch.device("cpu")


def _dtype(name: DTypeName) -> torch.dtype | None:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}.get(name)


def _natural_dtype(checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """float32 on a CPU: what this backend is for there is being exact, and CPUs without bfloat16 units are slower in
    it. On a GPU the file's own type, and bfloat16 for a quantised file."""
    if device.type == "cpu":
        return torch.float32
    encoding = checkpoint.weights["model.layers.0.self_attn.q_proj.weight"].encoding
    return DTYPES_BY_ENCODING.get(encoding, torch.bfloat16)


def _num_cores() -> int:
    """Physical cores, as far as this process may use them: a second thread on a core only gets in the way."""
    usable = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()
    return max(1, min(psutil.cpu_count(logical=False) or 1, usable or 1))


def _max_model_len(path: str, config: ModelConfig, wanted: int | None) -> int:
    if wanted is not None and wanted > config.max_positions:
        raise ModelError(
            path, f"--max-model-len {wanted} is more than the {config.max_positions} positions that the model has."
        )
    return wanted or config.max_positions


def _free_memory(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
