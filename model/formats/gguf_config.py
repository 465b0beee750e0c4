"""What the metadata of a GGUF file say of the model: dimensions, rotary scaling, experts, sampling defaults. The
meaning of a key, and of its absence, is llama.cpp's; a key that would change the arithmetic and has no place in
`ModelConfig` is refused by name. Of the tensors it sees names and shapes, and the values of `rope_freqs` only.
"""

import math
from collections.abc import Mapping

from model.config import ModelConfig, MoeConfig, RopeConfig, RopeKind
from model.errors import ModelError
from model.formats.checkpoint import LEAST_PENALTY, MOST_PENALTY, MOST_TEMPERATURE, GenerationDefaults
from model.formats.gguf_container import Container
from model.formats.gguf_keys import Keys

ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen3moe")
ROPE_FREQS = "rope_freqs.weight"

_MAX_LAYERS = _MAX_EXPERTS = 512  # llama.cpp's limits; a false count could fill the memory with names
_MAX_INT32 = 2**31 - 1
_QUANTIZATION_VERSION = 2  # of the encodings' layout
_ROPE_KINDS: Mapping[str, RopeKind] = {"none": "default", "linear": "linear", "yarn": "yarn"}
_WITHOUT_EFFECT = ("attention.layer_norm_epsilon", "rope.scaling.finetuned", "tensor_data_layout")
_NEUTRAL: Mapping[str, tuple[float, ...]] = {  # keys that change nothing where they have one of these values
    "attention.causal": (True,),
    "attention.scale": (0,),  # 0: 1 / sqrt(D)
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "expert_gating_func": (0, 1),  # 1: softmax
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_weights_norm": (True,),
    "expert_weights_scale": (0, 1),
    "final_logit_softcapping": (0,),
    "leading_dense_block_count": (0,),
    "logit_scale": (0, 1),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
    "residual_scale": (0, 1),
    "rope.scaling.yarn_ext_factor": (-1, 1),  # -1: not said
    "rope.scaling.yarn_log_multiplier": (0,),
    "use_parallel_residual": (False,),
}


def read_config(container: Container) -> ModelConfig:
    """Raises ModelError for a model that this project has no arithmetic for, and for metadata that contradict each
    other or the tensors."""
    architecture = _architecture(container)
    keys = _keys(container, f"{architecture}.")
    hidden_size, num_heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    head_dim = _head_dim(keys, hidden_size, num_heads)
    config = ModelConfig(
        architecture=architecture,
        vocab_size=_vocab_size(keys, container),
        hidden_size=hidden_size,
        intermediate_size=keys.integer("feed_forward_length"),
        num_layers=keys.integer("block_count", most=_MAX_LAYERS),
        num_heads=num_heads,
        num_kv_heads=_num_kv_heads(keys, num_heads),
        head_dim=head_dim,
        rms_norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
        max_positions=keys.integer("context_length"),
        rope=_rope(keys, container, head_dim),
        tie_word_embeddings="output.weight" not in container.tensors,
        qkv_bias="blk.0.attn_q.bias" in container.tensors,
        output_bias="blk.0.attn_output.bias" in container.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in container.tensors,
        qk_norm=architecture in ("qwen3", "qwen3moe"),
        moe=_moe(keys, architecture),
    )
    _refuse_others(keys)
    return config


def read_generation_defaults(container: Container) -> GenerationDefaults:
    keys = _keys(container, "general.sampling.")
    return GenerationDefaults(
        temperature=keys.number_within("temp", 0, MOST_TEMPERATURE),
        top_p=keys.number_within("top_p", 0, 1),
        top_k=max(keys.integer("top_k", least=-1, most=_MAX_INT32), 0) if "top_k" in keys else None,  # -1: no limit
        min_p=keys.number_within("min_p", 0, 1),
        repetition_penalty=keys.number_within("penalty_repeat", LEAST_PENALTY, MOST_PENALTY),
    )


def _keys(container: Container, prefix: str) -> Keys:
    return Keys(container.path, container.metadata, prefix)


def _architecture(container: Container) -> str:
    keys = _keys(container, "general.")
    name = keys.text("architecture")
    if name not in ARCHITECTURES:
        raise keys.error("architecture", f"these can be served: {', '.join(ARCHITECTURES)}.")
    if keys.text("type", "model") != "model":
        raise keys.error("type", "only a whole model can be served, 'model'.")
    if keys.integer("quantization_version", _QUANTIZATION_VERSION) != _QUANTIZATION_VERSION:
        raise keys.error("quantization_version", f"only version {_QUANTIZATION_VERSION} can be read.")
    split = _keys(container, "split.")
    if split.integer("count", 1, least=0) > 1:
        raise split.error("count", "a model in several files has to be joined first: llama-gguf-split --merge.")
    return name


def _head_dim(keys: Keys, hidden_size: int, num_heads: int) -> int:
    """One size for queries, keys and values, and all of it is rotated."""
    if "attention.key_length" not in keys and hidden_size % num_heads:
        raise keys.error("attention.key_length", f"{num_heads} heads do not divide the embedding's {hidden_size}.")
    head_dim = keys.integer("attention.key_length", hidden_size // num_heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if keys.integer(name, head_dim) != head_dim:
            raise keys.error(name, f"only the length of a key, {head_dim}, is implemented here.")
    if head_dim % 2:
        raise keys.error("attention.key_length", f"heads of {head_dim}, an odd number, cannot be rotated.")
    return head_dim


def _num_kv_heads(keys: Keys, num_heads: int) -> int:
    num_kv_heads = keys.integer("attention.head_count_kv", num_heads)
    if num_heads % num_kv_heads:
        raise keys.error("attention.head_count_kv", f"it has to divide the {num_heads} heads.")
    return num_kv_heads


def _vocab_size(keys: Keys, container: Container) -> int:
    embedding = container.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError(container.path, "tensor 'token_embd.weight' is missing; every model has it.")
    vocab_size = embedding.shape[0]
    if keys.integer("vocab_size", vocab_size) != vocab_size:
        raise keys.error("vocab_size", f"tensor 'token_embd.weight' has {vocab_size} rows.")
    tokens = container.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) != vocab_size:
        raise ModelError(
            container.path,
            f"metadata key 'tokenizer.ggml.tokens' has {len(tokens)} tokens, but tensor 'token_embd.weight' has"
            f" {vocab_size} rows.",
        )
    return vocab_size


def _moe(keys: Keys, architecture: str) -> MoeConfig | None:
    if architecture != "qwen3moe":
        if keys.integer("expert_count", 0, least=0):
            raise keys.error("expert_count", f"experts are implemented for qwen3moe, not for {architecture}.")
        keys.integer("expert_used_count", 0, least=0)  # without experts it says nothing
        return None
    num_experts = keys.integer("expert_count", most=_MAX_EXPERTS)
    num_used = keys.integer("expert_used_count", most=num_experts)
    size = keys.integer("expert_feed_forward_length", keys.integer("feed_forward_length") // num_used)
    return MoeConfig(num_experts, num_used, size, norm_topk_prob=True)


def _rope(keys: Keys, container: Container, head_dim: int) -> RopeConfig:
    """As llama.cpp has it, positions are divided by the factor also where no type is named."""
    kind = keys.text("rope.scaling.type", "linear")
    if kind not in _ROPE_KINDS:
        raise keys.error("rope.scaling.type", f"these are implemented: {', '.join(_ROPE_KINDS)}.")
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
    original = "rope.scaling.original_context_length"
    return RopeConfig(
        theta=keys.number("rope.freq_base", 10000.0, above=1.0),
        kind="default" if kind == "linear" and factor == 1.0 else _ROPE_KINDS[kind],
        factor=factor,
        original_max_positions=keys.integer(original) if original in keys else None,
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
        attention_factor=_attention_factor(keys, kind, factor),
        frequency_divisors=_frequency_divisors(container, head_dim),
    )


def _attention_factor(keys: Keys, kind: str, factor: float) -> float | None:
    """Of cosine and sine. attn_factor multiplies YaRN's own 0.1 ln(factor) + 1; yarn_attn_factor replaces it: there
    llama.cpp's converter writes what transformers calls attention_factor (llama.cpp itself reads and forgets it)."""
    name = "rope.scaling.yarn_attn_factor"
    whole = keys.number(name) if name in keys else None
    multiplier = keys.number("rope.scaling.attn_factor", 1.0)
    if multiplier == 1.0:
        return whole
    if kind != "yarn":
        raise keys.error("rope.scaling.attn_factor", f"without YaRN only 1 is implemented here, not with {kind!r}.")
    return multiplier * (0.1 * math.log(factor) + 1.0 if whole is None else whole)


def _frequency_divisors(container: Container, head_dim: int) -> tuple[float, ...]:
    tensor = container.tensors.get(ROPE_FREQS)
    if tensor is None:
        return ()
    if tensor.shape == (head_dim // 2,):  # else it may be of any size
        divisors = tensor.to_float32()
        if (divisors > 0).all():
            return tuple(divisors.tolist())
    raise ModelError(container.path, f"tensor '{ROPE_FREQS}' has to have {head_dim // 2} values above zero.")


def _refuse_others(keys: Keys) -> None:
    for name, value in keys.others():
        if name in _WITHOUT_EFFECT:
            continue
        if name not in _NEUTRAL:
            raise keys.error(name, "what this key asks of the model is not implemented here.")
        if isinstance(value, list) or value not in _NEUTRAL[name]:
            raise keys.error(name, f"only {' or '.join(map(str, _NEUTRAL[name]))} is implemented here.")
