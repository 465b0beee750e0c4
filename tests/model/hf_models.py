"""Small random models of every kind that is served, made and saved by transformers: the oracle's own files."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "attention_factor": 0.9,
}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "norm_topk_prob": True}

_CLASSES: dict[str, tuple[type[Any], type[PreTrainedModel]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "qwen3moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM),
}

# name: architecture and what differs from SIZES; together they reach every branch of the loader and of a transformer
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-llama3": ("llama", {"rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}),
    "llama-tied": ("llama", {"tie_word_embeddings": True, "head_dim": 24}),
    "qwen2": ("qwen2", {}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 32, "rms_norm_eps": 1e-5}),
    "qwen3-yarn": ("qwen3", {"head_dim": 32, "rope_parameters": YARN, "attention_bias": True}),
    "qwen3moe": ("qwen3moe", {"head_dim": 24, **EXPERTS}),
    "qwen3moe-mixed": ("qwen3moe", {**EXPERTS, "mlp_only_layers": [0], "decoder_sparse_step": 2}),
    "qwen3moe-unnormed": ("qwen3moe", {**EXPERTS, "norm_topk_prob": False, "tie_word_embeddings": True}),
}


@dataclass(frozen=True, slots=True)
class SavedModel:
    folder: Path
    model: PreTrainedModel  # float32, in evaluation mode


def save_random_model(name: str, folder: Path, seed: int = 0, **save_options: Any) -> SavedModel:
    """The model called `name` in MODELS, saved into `folder`; `save_options` go to `save_pretrained` (max_shard_size).
    Norms are not one and biases not zero, as they would be without training, so that none can be left out unseen."""
    architecture, changes = MODELS[name]
    config_class, model_class = _CLASSES[architecture]
    model = model_class(config_class(**SIZES | changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.25
            parameter.normal_(1.0 if "norm" in parameter_name else 0.0, spread, generator=generator)
    model.save_pretrained(folder, **save_options)
    return SavedModel(folder, model)


def edit_json(path: Path, drop: Iterable[str] = (), **changes: Any) -> None:
    """Changes keys of a saved JSON object in place; it may not have been there."""
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({key: value for key, value in (values | changes).items() if key not in drop}))
