"""MiniMind of every generation in its real dimensions, though of few layers and with random weights, saved as its own
scripts save it: the native backend computes what the torch backend does."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.config import ModelConfig, MoeConfig, RopeConfig
from model.formats import minimind
from model.native.runner import NativeOptions, NativeRunner
from model.torch_backend.runner import TorchOptions, TorchRunner
from tests.model.native.library_here import needs_library
from tests.model.random_checkpoint import random_checkpoint
from tests.model.reading import answer_greedily

pytestmark = needs_library

V1 = ModelConfig(
    architecture="llama",
    vocab_size=6400,
    hidden_size=512,
    intermediate_size=1408,
    num_layers=2,
    num_heads=16,
    num_kv_heads=8,
    head_dim=32,
    rms_norm_eps=1e-5,
    max_positions=512,
    rope=RopeConfig(theta=1e4),
    tie_word_embeddings=True,
)
EARLY_2 = replace(V1, num_heads=8, num_kv_heads=2, head_dim=64, max_positions=8192, rope=RopeConfig(theta=1e6))
V2 = replace(EARLY_2, max_positions=32768)
V3 = replace(
    V2,
    architecture="qwen3",
    hidden_size=768,
    intermediate_size=2432,
    num_kv_heads=4,
    head_dim=96,
    rms_norm_eps=1e-6,
    qk_norm=True,
)


def with_experts(config: ModelConfig, **changes: object) -> ModelConfig:
    """Two of four and a shared one, or as MiniMind-3 has them: one of four."""
    architecture, num_chosen, num_shared = ("qwen3moe", 1, 0) if config.qk_norm else ("minimind-moe", 2, 1)
    config = replace(config, architecture=architecture, **changes)
    moe = MoeConfig(4, num_chosen, config.intermediate_size, norm_topk_prob=True, num_shared_experts=num_shared)
    return replace(config, moe=moe)


ERAS: dict[str, tuple[str, ModelConfig]] = {
    "v1": ("MiniMind-v1", V1),
    "v1-moe": ("MiniMind-v1", with_experts(V1)),
    "v2-early": ("MiniMind2 of early 2025", EARLY_2),
    "v2-early-moe": (
        "MiniMind2 of early 2025",
        with_experts(EARLY_2, hidden_size=640, intermediate_size=1728, head_dim=80),
    ),
    "v2": ("MiniMind2", V2),
    "v2-moe": ("MiniMind2", with_experts(V2, hidden_size=640, intermediate_size=1728, head_dim=80)),
    "v3": ("MiniMind-3", V3),
    "v3-moe": ("MiniMind-3", with_experts(V3)),
}
_META = {
    "model.embed_tokens": "tok_embeddings",
    "model.": "",
    "self_attn.": "attention.",
    "q_proj": "wq",
    "k_proj": "wk",
    "v_proj": "wv",
    "o_proj": "wo",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.": "feed_forward.",
    "shared_experts.0.": "shared_experts.",
    "gate_proj": "w1",
    "down_proj": "w2",
    "up_proj": "w3",
}


def metas_name(name: str) -> str:
    for canonical, metas in _META.items():
        name = name.replace(canonical, metas)
    return name


def save(path: Path, era: str, config: ModelConfig) -> Path:
    weights = random_checkpoint(config, 3).weights
    state = {name: torch.from_numpy(tensor.to_float32()) for name, tensor in weights.items()}
    state["model.norm.weight"] *= 2.5 / math.sqrt(
        config.hidden_size
    )  # logits are about 2.5 in size, as golden ones are
    if era in ("v1", "v1-moe", "v2-early", "v2-early-moe"):
        state = {metas_name(name): tensor for name, tensor in state.items()}
    torch.save(state, path)
    return path


@pytest.mark.parametrize("era", ERAS)
def test_native_computes_what_torch_does(era: str, tmp_path: Path) -> None:
    origin, config = ERAS[era]
    checkpoint = minimind.read(save(tmp_path / "m.pth", era, config))
    assert (checkpoint.origin, checkpoint.config) == (origin, config)
    generator = torch.Generator().manual_seed(7)
    prompts = [torch.randint(0, 6400, (length,), generator=generator).tolist() for length in (1, 7, 40)]
    native = NativeRunner(
        checkpoint, NativeOptions(dtype="float32", kv_dtype="float32", num_threads=2, kv_cache_memory=2**24)
    )
    tokens, logits = answer_greedily(native, prompts, 12)
    reference = TorchRunner(checkpoint, TorchOptions(device="cpu", dtype="float32", kv_cache_memory=2**24))
    expected_tokens, expected = answer_greedily(reference, prompts, 12)
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-4)
    assert torch.equal(tokens, expected_tokens)
