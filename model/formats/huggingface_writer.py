"""`config.json` and `generation_config.json` of a model, in the form that transformers 4 and 5 both read: the rotation
as `rope_theta` and `rope_scaling`, experts as `num_experts`. What a class of transformers is, `huggingface_config.py`
knows, which reads the same files.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from model.config import ModelConfig, MoeConfig, RopeConfig
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint, GenerationDefaults
from model.formats.huggingface_config import ARCHITECTURES, Architecture
from model.formats.safetensors_writer import encoding_of
from model.formats.tied_embeddings import EMBEDDING

DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

_ROPE_KEYS = {  # by the name of RopeConfig's field
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "original_max_positions": "original_max_position_embeddings",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
    },
    "yarn": {
        "factor": "factor",
        "original_max_positions": "original_max_position_embeddings",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
        "mscale": "mscale",
        "mscale_all_dim": "mscale_all_dim",
        "truncate": "truncate",
    },
}


def huggingface_class(config: ModelConfig) -> str | None:
    """The class of transformers that computes the same; None if there is none."""
    has_shared_experts = config.moe is not None and config.moe.num_shared_experts > 0
    if has_shared_experts or config.rope.frequency_divisors:
        return None
    return next((name for name, architecture in ARCHITECTURES.items() if _fits(config, architecture)), None)


def _fits(config: ModelConfig, architecture: Architecture) -> bool:
    bias_of_output = False if architecture.fixed_qkv_bias else config.qkv_bias
    return (
        architecture.moe == (config.moe is not None)
        and architecture.qk_norm == config.qk_norm
        and config.output_bias == bias_of_output
        and (config.qkv_bias or not architecture.fixed_qkv_bias)
        and (architecture.mlp_bias_key or not config.mlp_bias)
    )


def config_of(checkpoint: Checkpoint, special_token_ids: dict[str, Any], asked: str | None = None) -> dict[str, Any]:
    """`special_token_ids`: eos_token_id and the like; `asked`: the encoding that weights get. Raises ModelError for a
    model that no class of transformers has a place for."""
    config = checkpoint.config
    name = huggingface_class(config)
    if name is None:
        raise ModelError(checkpoint.path, f"cannot be exported: {_problem(config)}.")
    architecture = ARCHITECTURES[name]
    return {
        "architectures": [name],
        "model_type": architecture.model_type,
        "torch_dtype": DTYPE_NAMES[encoding_of(checkpoint.weights[EMBEDDING], asked)],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_positions,
        "rope_theta": config.rope.theta,
        "rope_scaling": _rope_scaling(config.rope, config.max_positions),
        "tie_word_embeddings": config.tie_word_embeddings,
        **({} if architecture.fixed_qkv_bias else {"attention_bias": config.qkv_bias}),
        **({"mlp_bias": config.mlp_bias} if architecture.mlp_bias_key else {}),
        **(_expert_keys(config.moe) if config.moe else {}),
        **special_token_ids,
    }


def _problem(config: ModelConfig) -> str:
    if config.moe is not None and config.moe.num_shared_experts:
        return "its shared experts, which every token passes, have no place in Qwen3-MoE, nor in Llama"
    if config.rope.frequency_divisors:
        return "its rotary frequencies are a table (rope_freqs.weight), for which config.json has no key"
    norms = "with" if config.qk_norm else "without"
    experts = "experts" if config.moe else "no experts"
    biases = [name for name in ("qkv_bias", "output_bias", "mlp_bias") if asdict(config)[name]]
    kind = f"{experts}, {norms} norms of queries and keys, biases: {', '.join(biases) or 'none'}"
    return f"none of {', '.join(ARCHITECTURES)} is such a model ({kind})"


def _rope_scaling(rope: RopeConfig, max_positions: int) -> dict[str, Any] | None:
    """Both names of the kind: until 2024 readers know `type` only."""
    if rope.kind == "default":
        return None
    values = asdict(rope) | {"original_max_positions": rope.original_max_positions or max_positions}
    named = {key: values[field] for field, key in _ROPE_KEYS[rope.kind].items() if values[field] is not None}
    return {"rope_type": rope.kind, "type": rope.kind, **named}


def _expert_keys(moe: MoeConfig) -> dict[str, Any]:
    return {
        "num_experts": moe.num_experts,
        "num_experts_per_tok": moe.num_experts_per_token,
        "moe_intermediate_size": moe.intermediate_size,
        "norm_topk_prob": moe.norm_topk_prob,
        "decoder_sparse_step": 1,
        "mlp_only_layers": sorted(moe.dense_layers),
    }


def generation_config_of(generation: GenerationDefaults, special_token_ids: dict[str, Any]) -> dict[str, Any]:
    """A temperature of 0 is said as transformers says it: it does not sample."""
    named = {key: value for key, value in asdict(generation).items() if value is not None}
    if generation.temperature == 0:
        named = {"do_sample": False} | {key: value for key, value in named.items() if key != "temperature"}
    elif named:
        named = {"do_sample": True, **named}
    return named | special_token_ids


def one_or_all(token_ids: Iterable[int]) -> int | list[int] | None:
    """As these files write ends of text."""
    numbers = sorted(token_ids)
    return numbers if len(numbers) > 1 else next(iter(numbers), None)
