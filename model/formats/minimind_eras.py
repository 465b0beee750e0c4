"""MiniMind's generations: which names of tensors tell each, what its code fixes that no file says, and how its tensors
become those of `ModelConfig.tensor_shapes`. Reads no file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from model.config import ModelConfig, MoeConfig, RopeConfig
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint, WeightTensor
from model.formats.half_split import half_split
from model.formats.tied_embeddings import EMBEDDING, resolve_tying

Weights = Mapping[str, WeightTensor]


@dataclass(frozen=True, slots=True)
class Era:
    """A generation, and what its own code takes where nothing else is said."""

    name: str
    num_heads: int | None  # None: the query norms show it
    rms_norm_eps: float
    rope_theta: float
    max_positions: int
    num_experts_per_token: int
    has_meta_names: bool = False  # tensors and settings named as in Meta's Llama, and rotary pairs side by side


V1 = Era("MiniMind-v1", 16, 1e-5, 1e4, 512, 2, has_meta_names=True)
EARLY_2 = Era("MiniMind2 of early 2025", 8, 1e-5, 1e6, 8192, 2, has_meta_names=True)
V2 = Era("MiniMind2", 8, 1e-5, 1e6, 32768, 2)
V3 = Era("MiniMind-3", None, 1e-6, 1e6, 32768, 1)
META_ERAS = frozenset({V1.name, EARLY_2.name})

BUFFERS = ("mask", "freqs_cis", "pos_cis", "freqs_cos", "freqs_sin")  # last parts of names; they follow from the config

_BLOCK = "model.layers.0."
_META_KEYS = "layers.0.attention.wk.weight"
_META_NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_META_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
_META_MLP = re.compile(r"feed_forward\.(?:(experts\.\d+|shared_experts)\.)?(w1|w2|w3)")
_META_ROUTER = "feed_forward.gate"
_META_MATRICES = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def detect_era(path: Path, weights: Weights) -> Era:
    """By the names of the tensors: query norms are MiniMind-3's alone, and the first generations had Meta's names. Of
    these v1 has half as many key-value heads as query heads, the later one a quarter. Raises ModelError."""
    if f"{_BLOCK}self_attn.q_norm.weight" in weights:
        return V3
    if f"{_BLOCK}self_attn.q_proj.weight" in weights:
        return V2
    if _META_KEYS in weights:
        keys = weights[_META_KEYS]
        for era, share in ((V1, 2), (EARLY_2, 4)):
            if share * keys.shape[0] == keys.shape[-1]:
                return era
        raise ModelError(
            path, f"tensor {keys.file_name} has shape {keys.shape}; MiniMind's has 1/2 or 1/4 as many rows as columns."
        )
    if any(".lora." in name for name in weights):
        raise ModelError(
            path, "this is a LoRA adapter, not a model; name its model, and this with --merge-lora or --lora."
        )
    raise ModelError(path, "this is no MiniMind checkpoint: it has no first layer under any of MiniMind's names.")


def canonical_names(weights: Weights) -> dict[str, WeightTensor]:
    """Meta's names become those of `ModelConfig.tensor_shapes`; what has neither stays, to be left over. Raises
    ModelError where two tensors would have one name."""
    named: dict[str, WeightTensor] = {}
    for file_name, tensor in weights.items():
        name = canonical_name(file_name)
        if name in named:
            raise ModelError(tensor.path, f"tensor {tensor.file_name} is also stored as {named[name].file_name}.")
        named[name] = tensor
    return named


def canonical_name(name: str) -> str:
    """Of a tensor that has Meta's name; any other stays as it is."""
    stem, _, kind = name.rpartition(".")
    if layer := _META_LAYER.fullmatch(stem):
        part = _META_NAMES.get(layer[2]) or _canonical_mlp(layer[2])
        return f"model.layers.{layer[1]}.{part}.{kind}" if part else name
    return f"{_META_NAMES[stem]}.{kind}" if stem in _META_NAMES else name


def _canonical_mlp(part: str) -> str | None:
    if part == _META_ROUTER:
        return "mlp.gate"
    match = _META_MLP.fullmatch(part)
    if match is None:
        return None
    group = {None: "", "shared_experts": "shared_experts.0."}.get(match[1], f"{match[1]}.")
    return f"mlp.{group}{_META_MATRICES[match[2]]}"


def checkpoint_of(path: Path, era: Era, config: ModelConfig, weights: Weights) -> Checkpoint:
    """Of tensors under canonical names, as the file has them. Raises ModelError where they are not the config's."""
    if config.tie_word_embeddings:
        resolved = resolve_tying(dict(weights))
        config, weights = replace(config, tie_word_embeddings=resolved.tied), resolved.weights
    checkpoint = Checkpoint(path=path, config=config, weights=weights, origin=era.name)
    return replace(checkpoint, weights=half_split(weights, config)) if era.has_meta_names else checkpoint


def implied_config(path: Path, era: Era, weights: Weights) -> ModelConfig:
    """Of tensors under canonical names. Numbers of layers and experts are counted, never taken from a name; a gap shows
    as a missing tensor. Raises ModelError."""
    head_dim = _head_dim(era, weights, path)
    num_heads, num_kv_heads = (_num_heads(path, era, weights, letter, head_dim) for letter in "qk")
    if num_heads % num_kv_heads:
        raise ModelError(path, f"{num_heads} query heads are no multiple of {num_kv_heads} key-value heads.")
    vocab_size, hidden_size = _matrix_shape(path, era, weights, EMBEDDING)
    moe = _moe(path, era, weights)
    return ModelConfig(
        architecture=architecture_of(era, moe),
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size(path, era, weights),
        num_layers=_count("", weights),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=era.rms_norm_eps,
        max_positions=era.max_positions,
        rope=RopeConfig(theta=era.rope_theta),
        tie_word_embeddings=True,
        qk_norm=era is V3,
        moe=moe,
    )


def architecture_of(era: Era, moe: MoeConfig | None) -> str:
    """The word for people: of these shapes, Llama's and Qwen3's have others' names."""
    if era is V3:
        return "qwen3moe" if moe else "qwen3"
    return "minimind-moe" if moe else "llama"


def check_head_dim(path: Path, head_dim: int) -> None:
    if head_dim % 2:
        raise ModelError(path, f"the head dimension is {head_dim}; rotary pairs need an even one.")


def intermediate_size(path: Path, era: Era, weights: Weights) -> int:
    """Of the first layer, or of its first expert."""
    expert = "experts.0." if _count_experts("experts", weights) else ""
    return _rows(path, era, weights, f"{_BLOCK}mlp.{expert}gate_proj.weight")


def _moe(path: Path, era: Era, weights: Weights) -> MoeConfig | None:
    num_experts, num_chosen = _count_experts("experts", weights), era.num_experts_per_token
    if num_experts == 0:
        return None
    if num_experts < num_chosen:
        raise ModelError(path, f"has {num_experts} expert; {era.name} chooses {num_chosen} for each token.")
    return MoeConfig(
        num_experts=num_experts,
        num_experts_per_token=num_chosen,
        intermediate_size=intermediate_size(path, era, weights),
        norm_topk_prob=True,
        num_shared_experts=_count_experts("shared_experts", weights),
    )


def _count_experts(group: str, weights: Weights) -> int:
    return _count(rf"0\.mlp\.{group}\.", weights)


def _count(place: str, weights: Weights) -> int:
    pattern = re.compile(rf"model\.layers\.{place}(\d+)\.")
    return len({match[1] for name in weights if (match := pattern.match(name))})


def _head_dim(era: Era, weights: Weights, path: Path) -> int:
    name, num_heads = f"{_BLOCK}self_attn.q_proj.weight", era.num_heads
    if num_heads is None:
        head_dim = _rows(path, era, weights, f"{_BLOCK}self_attn.q_norm.weight")
    else:
        rows = _rows(path, era, weights, name)
        if rows % num_heads:
            raise ModelError(path, f"tensor {weights[name].file_name} has {rows} rows, no multiple of {num_heads}.")
        head_dim = rows // num_heads
    check_head_dim(path, head_dim)
    return head_dim


def _num_heads(path: Path, era: Era, weights: Weights, letter: str, head_dim: int) -> int:
    name = f"{_BLOCK}self_attn.{letter}_proj.weight"
    rows = _rows(path, era, weights, name)
    if rows % head_dim:
        raise ModelError(path, f"tensor {weights[name].file_name} has {rows} rows, no multiple of {head_dim}.")
    return rows // head_dim


def _rows(path: Path, era: Era, weights: Weights, name: str) -> int:
    if name not in weights:
        raise ModelError(path, f"tensor {name} is missing; a {era.name} model has it.")
    shape = weights[name].shape
    if not shape or 0 in shape:
        raise ModelError(path, f"tensor {weights[name].file_name} is empty.")
    return shape[0]


def _matrix_shape(path: Path, era: Era, weights: Weights, name: str) -> tuple[int, int]:
    rows, tensor = _rows(path, era, weights, name), weights[name]
    if len(tensor.shape) != 2:
        raise ModelError(path, f"tensor {tensor.file_name} has shape {tensor.shape}; it must be a matrix.")
    return rows, tensor.shape[1]
