"""`config.json` and `generation_config.json` of a Hugging Face folder, as transformers 4 and 5 write them.

Owns what their keys mean and what stands for a missing one. A key that changes the arithmetic is honoured or refused by
name, never ignored; keys that leave it alone (dtype, initializer_range, use_cache, …) are not looked at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import ModelConfig, MoeConfig
from model.errors import ModelError
from model.formats.checkpoint import LEAST_PENALTY, MOST_PENALTY, MOST_TEMPERATURE, GenerationDefaults
from model.formats.huggingface_rope import read_rope
from model.formats.json_object import JsonObject

MOST_LAYERS = MOST_EXPERTS = 512  # as in GGUF files; a lie about these would otherwise be paid for in names


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a class of transformers fixes, and its defaults for keys that a config may leave out."""

    name: str
    model_type: str
    max_positions: int
    num_kv_heads: int | None  # None: as many as there are query heads
    head_dim: int | None = None  # None: E / H
    fixed_qkv_bias: bool = False  # biases on q, k, v whatever the config says, none on the output
    qk_norm: bool = False
    mlp_bias_key: bool = False
    sliding_window_switch: bool = True  # sliding_window counts only if use_sliding_window is true
    moe: bool = False


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama", "llama", 2048, None, mlp_bias_key=True, sliding_window_switch=False),
    "Qwen2ForCausalLM": Architecture("qwen2", "qwen2", 32768, 32, fixed_qkv_bias=True),
    "Qwen3ForCausalLM": Architecture("qwen3", "qwen3", 32768, 32, head_dim=128, qk_norm=True),
    "Qwen3MoeForCausalLM": Architecture("qwen3moe", "qwen3_moe", 32768, 4, qk_norm=True, moe=True),
}

# Keys that change the arithmetic without leaving a trace among the tensors, and the one value that changes nothing.
_NEUTRAL: dict[str, Any] = {
    "hidden_act": "silu",
    "pretraining_tp": 1,
    "quantization_config": None,
    "compression_config": None,
    "dual_chunk_attention_config": None,
    "use_sliding_window": False,
    "use_mrope": False,
    "rope_interleaved": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "attention_multiplier": None,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
    "logit_scale": 1.0,
}


def read_config(folder: Path) -> ModelConfig:
    """`tie_word_embeddings` is what the file says; the tensors have the last word."""
    config = JsonObject.read(folder / "config.json")
    architecture = _architecture(config)
    refuse_other_arithmetic(config, {} if architecture.sliding_window_switch else {"sliding_window": None})
    num_heads = config.integer("num_attention_heads")
    hidden_size = config.integer("hidden_size")
    max_positions = config.integer("max_position_embeddings", architecture.max_positions)
    attention_bias = config.flag("attention_bias", False) and not architecture.fixed_qkv_bias
    head_dim = config.integer("head_dim", architecture.head_dim or hidden_size // num_heads)
    return ModelConfig(
        architecture=architecture.name,
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=config.integer("intermediate_size"),
        num_layers=config.integer("num_hidden_layers", most=MOST_LAYERS),
        num_heads=num_heads,
        num_kv_heads=_num_kv_heads(config, architecture, num_heads),
        head_dim=_even_head_dim(config, head_dim),
        rms_norm_eps=config.number("rms_norm_eps", 1e-6, least=0),
        max_positions=max_positions,
        rope=read_rope(config, max_positions),
        tie_word_embeddings=config.flag("tie_word_embeddings", False),
        qkv_bias=attention_bias or architecture.fixed_qkv_bias,
        output_bias=attention_bias,
        mlp_bias=architecture.mlp_bias_key and config.flag("mlp_bias", False),
        qk_norm=architecture.qk_norm,
        moe=_moe(config) if architecture.moe else None,
    )


def _architecture(config: JsonObject) -> Architecture:
    """By class; by model type where no class is named. The two must agree: with another model type transformers, which
    goes by it, would run another model."""
    model_type = config.text("model_type", "") or None
    name = _class_name(config)
    if name not in ARCHITECTURES:
        raise ModelError(config.path, f"the architecture {name} is unknown; known are {', '.join(ARCHITECTURES)}.")
    if model_type not in (None, ARCHITECTURES[name].model_type):
        raise config.wrong("model_type", f"{ARCHITECTURES[name].model_type}, as architectures names {name}")
    return ARCHITECTURES[name]


def _class_name(config: JsonObject) -> str:
    by_type = {architecture.model_type: name for name, architecture in ARCHITECTURES.items()}
    names, model_type = config.texts("architectures"), config.text("model_type", "")
    return names[0] if names else by_type.get(model_type, f"(model type {model_type or None})")


def read_class_name(folder: Path) -> str:
    """The class of transformers that the folder is for."""
    return _class_name(JsonObject.read(folder / "config.json"))


def refuse_other_arithmetic(config: JsonObject, neutral: Mapping[str, Any]) -> None:
    """Raises ModelError for a key with another value than it has in `neutral`, or here for every model."""
    for key, value in {**_NEUTRAL, **neutral}.items():
        if config.has(key) and config.values[key] != value:
            raise ModelError(config.path, f"{key} is {config.values[key]!r}; only {value!r} can be served.")
    for layer_type in config.texts("layer_types"):
        if layer_type != "full_attention":
            raise ModelError(config.path, f"layer_types names {layer_type}; only full_attention can be served.")


def _num_kv_heads(config: JsonObject, architecture: Architecture, num_heads: int) -> int:
    is_null = "num_key_value_heads" in config.values and not config.has("num_key_value_heads")
    default = None if is_null else architecture.num_kv_heads
    num_kv_heads = config.integer("num_key_value_heads", default or num_heads)
    if num_heads % num_kv_heads:
        raise ModelError(
            config.path, f"num_attention_heads ({num_heads}) is no multiple of num_key_value_heads ({num_kv_heads})."
        )
    return num_kv_heads


def _even_head_dim(config: JsonObject, head_dim: int) -> int:
    if head_dim < 2 or head_dim % 2:
        raise ModelError(config.path, f"the head dimension is {head_dim}; rotary pairs need an even one.")
    return head_dim


def _moe(config: JsonObject) -> MoeConfig | None:
    """None where no layer has experts."""
    num_layers = config.integer("num_hidden_layers", most=MOST_LAYERS)
    num_experts = _num_experts(config)
    step = config.integer("decoder_sparse_step", 1)
    dense = set(config.integers("mlp_only_layers")) | {layer for layer in range(num_layers) if (layer + 1) % step}
    if num_experts == 0 or dense.issuperset(range(num_layers)):
        return None
    return MoeConfig(
        num_experts=num_experts,
        num_experts_per_token=config.integer("num_experts_per_tok", 8, most=num_experts),
        intermediate_size=config.integer("moe_intermediate_size", 768),
        norm_topk_prob=config.flag("norm_topk_prob", False),
        dense_layers=frozenset(dense),
    )


def _num_experts(config: JsonObject) -> int:
    """transformers 4 says num_experts, 5 says num_local_experts."""
    old = config.integer("num_experts", 128, least=0, most=MOST_EXPERTS)
    new = config.integer("num_local_experts", old, least=0, most=MOST_EXPERTS)
    if config.has("num_experts") and new != old:
        raise ModelError(config.path, f"num_experts is {old}, but num_local_experts {new}; they mean the same.")
    return new


def read_generation_defaults(folder: Path) -> GenerationDefaults:
    """The sampling values of `generation_config.json`, where there is such a file; all its other keys say how
    transformers should run its own loop.

    A value counts also where do_sample is absent: that is how vLLM reads these files, and authors who recommend a
    temperature mean it, although transformers would then decode greedily. Where do_sample is false in so many words,
    greedy decoding is what they recommend.
    """
    path = folder / "generation_config.json"
    if not path.exists():
        return GenerationDefaults()
    config = JsonObject.read(path)
    return GenerationDefaults(
        temperature=_temperature(config),
        top_p=config.number("top_p", least=0, most=1) if config.has("top_p") else None,
        top_k=max(config.integer("top_k", least=-1), 0) if config.has("top_k") else None,  # -1 and 0: no limit
        min_p=config.number("min_p", least=0, most=1) if config.has("min_p") else None,
        repetition_penalty=_repetition_penalty(config),
    )


def _temperature(config: JsonObject) -> float | None:
    if not config.flag("do_sample", True):
        return 0.0
    return config.number("temperature", least=0, most=MOST_TEMPERATURE) if config.has("temperature") else None


def _repetition_penalty(config: JsonObject) -> float | None:
    key = "repetition_penalty"
    return config.number(key, least=LEAST_PENALTY, most=MOST_PENALTY) if config.has(key) else None


def read_eos_token_ids(folder: Path) -> frozenset[int]:
    """Of both files, which often differ: a chat model's end of turn may be in one of them only."""
    paths = (folder / "config.json", folder / "generation_config.json")
    return frozenset(
        token_id for path in paths if path.exists() for token_id in JsonObject.read(path).integers("eos_token_id")
    )
