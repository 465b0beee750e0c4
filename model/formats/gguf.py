"""GGUF, llama.cpp's format: a file becomes a Checkpoint. Here the file's tensors get their canonical names, experts are
cut out of their stacks, and llama's queries and keys, which llama.cpp stores for rotation of neighbours, are brought
into the half-split order. Weights stay in the file's encoding, and but for those queries and keys in the mapped file.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from model.config import ModelConfig
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint, WeightTensor
from model.formats.gguf_config import ROPE_FREQS, read_config, read_generation_defaults
from model.formats.gguf_container import Container, open_container
from model.formats.gguf_ends import read_end_token_ids
from model.formats.half_split import half_split

_NAMES: Mapping[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_EXPERT = re.compile(r"mlp\.experts\.(\d+)\.(gate|up|down)_proj")


def read(path: Path) -> Checkpoint:
    """Raises ModelError for a file that is damaged, contradicts itself, or asks for more than this project has."""
    return checkpoint_of(open_container(path))


def checkpoint_of(container: Container) -> Checkpoint:
    """As `read`, for a file that is open already."""
    config = read_config(container)
    return Checkpoint(
        path=container.path,
        config=config,
        weights=_weights(container, config),
        eos_token_ids=read_end_token_ids(container.metadata, container.path, config.vocab_size),
        generation=read_generation_defaults(container),
        origin=f"GGUF {config.architecture}",
    )


def _weights(container: Container, config: ModelConfig) -> dict[str, WeightTensor]:
    weights = {}
    left_over = container.tensors.keys() - {ROPE_FREQS}
    for name, shape in config.tensor_shapes():
        file_name, expert = _place(name)
        stack = (config.moe.num_experts,) if config.moe and expert is not None else ()
        tensor = _take(container, file_name, stack + shape, config)
        weights[name] = tensor if expert is None else _cut(tensor, expert)
        left_over.discard(file_name)
    if left_over:
        raise ModelError(
            container.path, f"tensor {min(left_over)!r} is left over: {_asked_for(config)} has no place for it."
        )
    # llama.cpp's converter lays the two rows that rotate together side by side, for this architecture alone.
    return weights if config.architecture != "llama" else half_split(weights, config)


def _place(name: str) -> tuple[str, int | None]:
    """The file's name of a canonical name's tensor, and the number of the expert where it is a stack of experts."""
    stem, _, kind = name.rpartition(".")
    prefix = ""
    if stem.startswith("model.layers."):
        layer, stem = stem.removeprefix("model.layers.").split(".", 1)
        prefix = f"blk.{layer}."
    if expert := _EXPERT.fullmatch(stem):
        return f"{prefix}ffn_{expert[2]}_exps.{kind}", int(expert[1])
    return f"{prefix}{_NAMES[stem]}.{kind}", None


def _take(container: Container, file_name: str, shape: tuple[int, ...], config: ModelConfig) -> WeightTensor:
    tensor = container.tensors.get(file_name)
    if tensor is None:
        raise ModelError(container.path, f"tensor '{file_name}' is missing: {_asked_for(config)} has it.")
    if tensor.shape != shape:
        raise ModelError(
            container.path, f"tensor '{file_name}' has shape {tensor.shape}: {_asked_for(config)} has {shape} there."
        )
    return tensor


def _asked_for(config: ModelConfig) -> str:
    return f"a {config.architecture} model of {config.num_layers} layers as the metadata describe it"


def _cut(stack: WeightTensor, expert: int) -> WeightTensor:
    name = f"{stack.file_name}[{expert}]"
    return replace(stack, shape=stack.shape[1:], data=stack.data[expert], file_name=name)
