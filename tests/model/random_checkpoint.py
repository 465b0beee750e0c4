"""A checkpoint of any config with random weights: for tests that need a model, and not a good one.

Norms lie around 1 and matrices are scaled by their inputs, so that activations keep their size through the layers and
attention is far from uniform.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.config import ModelConfig, MoeConfig, RopeConfig
from model.formats.checkpoint import Checkpoint, WeightTensor

LLAMA = ModelConfig(
    architecture="llama",
    vocab_size=331,
    hidden_size=48,
    intermediate_size=80,
    num_layers=3,
    num_heads=6,
    num_kv_heads=2,
    head_dim=16,  # not hidden_size / num_heads
    rms_norm_eps=1e-5,
    max_positions=512,
    rope=RopeConfig(theta=1e6),
)
QWEN2 = ModelConfig(
    architecture="qwen2",
    vocab_size=331,
    hidden_size=64,
    intermediate_size=96,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=16,
    rms_norm_eps=1e-6,
    max_positions=512,
    tie_word_embeddings=True,
    qkv_bias=True,
)
QWEN3 = ModelConfig(
    architecture="qwen3",
    vocab_size=331,
    hidden_size=48,
    intermediate_size=80,
    num_layers=2,
    num_heads=4,
    num_kv_heads=1,
    head_dim=32,
    rms_norm_eps=1e-6,
    max_positions=512,
    rope=RopeConfig(theta=1e6),
    tie_word_embeddings=True,
    qk_norm=True,
)
QWEN3_MOE = ModelConfig(
    architecture="qwen3moe",
    vocab_size=331,
    hidden_size=48,
    intermediate_size=80,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    rms_norm_eps=1e-6,
    max_positions=512,
    qk_norm=True,
    moe=MoeConfig(
        num_experts=6,
        num_experts_per_token=2,
        intermediate_size=32,
        norm_topk_prob=True,
        dense_layers=frozenset({1}),
    ),
)
MINIMIND_MOE = replace(
    QWEN3_MOE,
    architecture="minimind-moe",
    qk_norm=False,
    tie_word_embeddings=True,
    moe=MoeConfig(
        num_experts=4, num_experts_per_token=2, intermediate_size=32, norm_topk_prob=True, num_shared_experts=2
    ),
)


def random_checkpoint(config: ModelConfig, seed: int) -> Checkpoint:
    generator = np.random.default_rng(seed)
    path = Path(f"random-{config.architecture}")
    weights = {name: _random_tensor(generator, path, name, shape) for name, shape in config.tensor_shapes()}
    return Checkpoint(path, config, weights)


def checkpoint_that_breaks_on(token_id: int) -> Checkpoint:
    """Hidden dimension 0 is zero for all tokens but one, whose scores overflow."""
    checkpoint = random_checkpoint(LLAMA, 3)
    weights = dict(checkpoint.weights)
    for name, tensor in checkpoint.weights.items():
        values = tensor.to_float32()
        if "embed_tokens" in name:
            values[:, 0] = 0
            values[token_id, 0] = 1
        elif "o_proj" in name or "down_proj" in name:
            values[0] = 0
        elif "input_layernorm" in name:
            values[0] = 1e25
        weights[name] = float32_tensor(tensor.path, name, values)
    return replace(checkpoint, weights=weights)


def float32_tensor(path: Path, name: str, values: np.ndarray) -> WeightTensor:
    data = np.ascontiguousarray(values, dtype="<f4")
    return WeightTensor(data.shape, "F32", data.view(np.uint8), path, name)


def _random_tensor(generator: np.random.Generator, path: Path, name: str, shape: tuple[int, ...]) -> WeightTensor:
    values = generator.standard_normal(shape, dtype=np.float32)
    if "norm" in name:
        values = 1 + 0.2 * values
    elif len(shape) == 2 and "embed" not in name:
        values *= 1.5 / math.sqrt(shape[1])
    return float32_tensor(path, name, values)
