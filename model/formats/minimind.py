"""MiniMind's native checkpoints: a `.pth` file of tensors and nothing else, as a `Checkpoint`.

Owns the recognition of MiniMind's generations and the config that the tensors of MiniMind-3 imply, for these files
bring none. `torch.load` runs with `weights_only=True`: what a file holds beyond tensors is refused, never executed.
"""

import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from model.config import ModelConfig, MoeConfig, RopeConfig
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint, WeightTensor
from model.formats.tied_embeddings import EMBEDDING, resolve_tying
from model.formats.torch_archive import check_archive

Generation = Literal["MiniMind-v1", "MiniMind2 of early 2025", "MiniMind2", "MiniMind-3"]
Tensors = Mapping[str, torch.Tensor]

_ENCODINGS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_PREFIX = re.compile(r"^(_orig_mod\.|module\.)+")  # left by torch.compile and by data-parallel training
_LAYER = re.compile(r"^model\.layers\.(\d+)\.")
_EXPERT = re.compile(r"^model\.layers\.0\.mlp\.experts\.(\d+)\.")
_BLOCK = "model.layers.0."

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
    """Raises ModelError, naming file and tensor, for whatever is no sound MiniMind-3 checkpoint."""
    tensors = _read_tensors(path)
    generation = detect_generation(path, tensors)
    if generation != "MiniMind-3":
        raise ModelError(path, f"this is a checkpoint of {generation}; only MiniMind-3 can be served, so far.")
    resolved = resolve_tying({name: weight_from_torch(path, name, tensor) for name, tensor in tensors.items()})
    config = replace(_config(path, tensors), tie_word_embeddings=resolved.tied)
    return Checkpoint(path=path, config=config, weights=resolved.weights)


def read_weights(path: Path) -> dict[str, WeightTensor]:
    """Every tensor of the file, whatever it is of, without the prefixes of training. Raises ModelError."""
    return {name: weight_from_torch(path, name, tensor) for name, tensor in _read_tensors(path).items()}


def detect_generation(path: Path, tensors: Tensors) -> Generation:
    """By the names of the tensors: query norms are MiniMind-3's alone, and the first generations had Meta's names.
    Of these v1 has half as many key-value heads as query heads, the later one a quarter."""
    if f"{_BLOCK}self_attn.q_norm.weight" in tensors:
        return "MiniMind-3"
    if f"{_BLOCK}self_attn.q_proj.weight" in tensors:
        return "MiniMind2"
    if "layers.0.attention.wk.weight" in tensors:
        keys = tensors["layers.0.attention.wk.weight"]
        return "MiniMind-v1" if 2 * keys.shape[0] == keys.shape[-1] else "MiniMind2 of early 2025"
    if any(".lora." in name for name in tensors):
        raise ModelError(
            path, "this is a LoRA adapter, not a model; name its model, and this with --merge-lora or --lora."
        )
    raise ModelError(path, "this is no MiniMind checkpoint: it has no first layer under any of MiniMind's names.")


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
    """The tensors of a state dictionary, or of the one under `model` in a `*_resume.pth`, without prefixes."""
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


def _config(path: Path, tensors: Tensors) -> ModelConfig:
    """Numbers of layers and experts are counted, never taken from a name; a gap shows as a missing tensor."""
    head_dim = _rows(path, tensors, f"{_BLOCK}self_attn.q_norm.weight")
    num_heads, num_kv_heads = (_num_heads(path, tensors, letter, head_dim) for letter in "qk")
    if head_dim % 2:
        raise ModelError(path, f"the head dimension is {head_dim}; rotary pairs need an even one.")
    if num_heads % num_kv_heads:
        raise ModelError(path, f"{num_heads} query heads are no multiple of {num_kv_heads} key-value heads.")
    vocab_size, hidden_size = _matrix_shape(path, tensors, EMBEDDING)
    experts = _numbers(_EXPERT, tensors)
    mlp = f"{_BLOCK}mlp.experts.0." if experts else f"{_BLOCK}mlp."
    intermediate_size = _rows(path, tensors, f"{mlp}gate_proj.weight")
    return ModelConfig(
        architecture="qwen3moe" if experts else "qwen3",
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=len(_numbers(_LAYER, tensors)),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=1e-6,
        max_positions=32768,
        rope=RopeConfig(theta=1e6),
        qk_norm=True,
        moe=MoeConfig(len(experts), 1, intermediate_size, norm_topk_prob=True) if experts else None,
    )


def _numbers(pattern: re.Pattern[str], tensors: Tensors) -> set[str]:
    return {match[1] for name in tensors if (match := pattern.match(name))}


def _num_heads(path: Path, tensors: Tensors, letter: str, head_dim: int) -> int:
    name = f"{_BLOCK}self_attn.{letter}_proj.weight"
    rows = _rows(path, tensors, name)
    if rows % head_dim:
        raise ModelError(path, f"tensor {name} has {rows} rows, no multiple of {head_dim}.")
    return rows // head_dim


def _rows(path: Path, tensors: Tensors, name: str) -> int:
    if name not in tensors:
        raise ModelError(path, f"tensor {name} is missing; a MiniMind-3 model has it.")
    shape = tensors[name].shape
    if not shape or 0 in shape:
        raise ModelError(path, f"tensor {name} is empty.")
    return int(shape[0])


def _matrix_shape(path: Path, tensors: Tensors, name: str) -> tuple[int, int]:
    rows = _rows(path, tensors, name)
    if tensors[name].ndim != 2:
        raise ModelError(path, f"tensor {name} has shape {tuple(tensors[name].shape)}; it must be a matrix.")
    return rows, int(tensors[name].shape[1])
