"""A Hugging Face folder: `config.json` beside safetensors, in one file or in shards, as a `Checkpoint`.

Owns which files of the folder are read and how their tensors get canonical names. Values stay in the files; nothing in
a folder is ever executed, so weights in pickles are refused.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath

from model.config import ModelConfig, MoeConfig
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint, WeightTensor
from model.formats.huggingface_config import (
    read_class_name,
    read_config,
    read_eos_token_ids,
    read_generation_defaults,
)
from model.formats.json_object import JsonObject
from model.formats.safetensors_file import read_safetensors
from model.formats.tied_embeddings import resolve_tying

_SINGLE_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"

# Buffers that older versions of transformers saved, in any encoding; they follow from the config.
_DERIVED = (".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached")

_FUSED_GATE_UP = "mlp.experts.gate_up_proj"  # [X, 2F, E], the gate's rows first
_FUSED_DOWN = "mlp.experts.down_proj"  # [X, E, F]


def read(folder: Path) -> Checkpoint:
    """Raises ModelError, naming file and tensor or key, for whatever cannot be served as the files say."""
    config = read_config(folder)
    weights = _split_experts(read_tensors(folder), config)
    if config.tie_word_embeddings:
        resolved = resolve_tying(weights)
        weights = resolved.weights
        config = dataclasses.replace(config, tie_word_embeddings=resolved.tied)
    return Checkpoint(
        path=folder,
        config=config,
        weights=weights,
        eos_token_ids=read_eos_token_ids(folder),
        generation=read_generation_defaults(folder),
        origin=f"Hugging Face {read_class_name(folder)}",
    )


def has_safetensors(folder: Path) -> bool:
    return (folder / _SINGLE_FILE).exists() or (folder / _INDEX_FILE).exists()


def read_tensors(folder: Path) -> dict[str, WeightTensor]:
    """Of safetensors, by the names that they have there. Raises ModelError."""
    if (folder / _SINGLE_FILE).exists():
        return read_safetensors(folder / _SINGLE_FILE, _DERIVED)
    if (folder / _INDEX_FILE).exists():
        return _read_shards(folder, _read_index(folder / _INDEX_FILE))
    if any(folder.glob("pytorch_model*.bin")):
        raise ModelError(folder, "its weights are a pickle (pytorch_model.bin), which is not read; save safetensors.")
    raise ModelError(folder, f"there is neither {_SINGLE_FILE} nor {_INDEX_FILE}.")


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name to file name. A file outside the folder is not the model's, whatever the index says; Windows has the
    wider idea of what leads out of a folder."""
    weight_map = JsonObject.read(path).child("weight_map")
    if not weight_map.values:
        raise ModelError(path, "weight_map is missing or empty.")
    files = {name: weight_map.text(name) for name in weight_map.values}
    for name, file in files.items():
        if PureWindowsPath(file).name != file or not file.endswith(".safetensors"):
            raise weight_map.wrong(name, "the name of a .safetensors file in the same folder")
    return files


def _read_shards(folder: Path, files: Mapping[str, str]) -> dict[str, WeightTensor]:
    tensors: dict[str, WeightTensor] = {}
    for file in sorted(set(files.values())):
        for name, tensor in read_safetensors(folder / file, _DERIVED).items():
            _add(tensors, name, tensor)
    for name, file in files.items():
        if not name.endswith(_DERIVED) and (name not in tensors or tensors[name].path.name != file):
            raise ModelError(folder / file, f"tensor {name} is not in this shard; {_INDEX_FILE} says it is.")
    return tensors


def _add(tensors: dict[str, WeightTensor], name: str, tensor: WeightTensor) -> None:
    if name in tensors:
        raise ModelError(tensor.path, f"tensor {tensor.file_name} is also stored as {_place(tensors[name])}.")
    tensors[name] = tensor


def _place(tensor: WeightTensor) -> str:
    return f"{tensor.file_name} in {tensor.path.name}"


def _split_experts(stored: Mapping[str, WeightTensor], config: ModelConfig) -> dict[str, WeightTensor]:
    """Experts fused into one tensor, each under a name of its own; the others as they are."""
    weights: dict[str, WeightTensor] = {}
    for name, tensor in stored.items():
        parts = {name: tensor}
        if config.moe is not None and name.endswith(_FUSED_GATE_UP):
            parts = _split_gate_up(name, tensor, config.moe, config.hidden_size)
        elif config.moe is not None and name.endswith(_FUSED_DOWN):
            parts = _split_down(name, tensor, config.moe, config.hidden_size)
        for part_name, part in parts.items():
            _add(weights, part_name, part)
    return weights


def _split_gate_up(name: str, tensor: WeightTensor, moe: MoeConfig, hidden_size: int) -> dict[str, WeightTensor]:
    rows = moe.intermediate_size
    _check_shape(tensor, (moe.num_experts, 2 * rows, hidden_size))
    experts = name.removesuffix("gate_up_proj")
    parts = {}
    for expert in range(moe.num_experts):
        parts[f"{experts}{expert}.gate_proj.weight"] = _part(tensor, expert, slice(0, rows))
        parts[f"{experts}{expert}.up_proj.weight"] = _part(tensor, expert, slice(rows, 2 * rows))
    return parts


def _split_down(name: str, tensor: WeightTensor, moe: MoeConfig, hidden_size: int) -> dict[str, WeightTensor]:
    _check_shape(tensor, (moe.num_experts, hidden_size, moe.intermediate_size))
    experts = name.removesuffix("down_proj")
    rows = slice(0, hidden_size)
    return {f"{experts}{expert}.down_proj.weight": _part(tensor, expert, rows) for expert in range(moe.num_experts)}


def _check_shape(tensor: WeightTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ModelError(
            tensor.path, f"tensor {tensor.file_name} has shape {tensor.shape}; the config asks for {shape}."
        )


def _part(tensor: WeightTensor, expert: int, rows: slice) -> WeightTensor:
    """A view of some rows of one expert."""
    data = tensor.data[expert, rows]
    shape = (data.shape[0], tensor.shape[-1])
    file_name = f"{tensor.file_name}[{expert}, {rows.start}:{rows.stop}]"
    return dataclasses.replace(tensor, shape=shape, data=data, file_name=file_name)
