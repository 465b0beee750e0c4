"""Frequencies against transformers, whose models define what the scaling keys of a config mean."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from model.config import RopeConfig
from model.rope import rope_frequencies

MAX_POSITIONS = 4096

YARN = RopeConfig(kind="yarn", theta=1e6, factor=16.0, original_max_positions=2048)

CONFIGS = {
    "default": RopeConfig(),
    "another theta": RopeConfig(theta=1e6),
    "linear": RopeConfig(kind="linear", factor=4.0),
    "llama 3.1": RopeConfig(kind="llama3", theta=5e5, factor=8.0, original_max_positions=8192),
    "llama3, other bounds": RopeConfig(
        kind="llama3", theta=5e5, factor=32.0, low_freq_factor=2.0, high_freq_factor=5.0, original_max_positions=512
    ),
    "llama3, original length not said": RopeConfig(kind="llama3", theta=5e5, factor=8.0),
    "yarn": YARN,
    "yarn, original length not said": dataclasses.replace(YARN, original_max_positions=None),
    "yarn, MiniMind": dataclasses.replace(YARN, attention_factor=1.0),
    "yarn, no temperature below one": dataclasses.replace(YARN, factor=0.5),
    "yarn, another ramp": dataclasses.replace(YARN, beta_fast=4.0, beta_slow=2.0),
    "yarn, a ramp of no width": dataclasses.replace(YARN, beta_fast=2.0, beta_slow=2.0, truncate=False),
    "yarn, ramp not rounded": dataclasses.replace(YARN, truncate=False),
    "yarn, ramp that begins beyond the pairs": dataclasses.replace(YARN, theta=100.0, original_max_positions=4_000_000),
    "yarn, ramp that ends beyond the pairs": dataclasses.replace(YARN, theta=100.0),
    "yarn, both mscales": dataclasses.replace(YARN, mscale=0.707, mscale_all_dim=1.3),
    "yarn, one mscale counts for nothing": dataclasses.replace(YARN, mscale=0.707),
}


def transformers_parameters(config: RopeConfig) -> dict[str, Any]:
    keys = {"factor"} if config.kind != "default" else set()
    keys |= {"low_freq_factor", "high_freq_factor"} if config.kind == "llama3" else set()
    if config.kind == "yarn":
        keys |= {"beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim"}
    parameters = {key: getattr(config, key) for key in keys if getattr(config, key) is not None}
    if config.original_max_positions is not None:
        parameters["original_max_position_embeddings"] = config.original_max_positions
    return parameters | {"rope_type": config.kind, "rope_theta": config.theta}


def transformers_frequencies(config: RopeConfig, head_dim: int) -> tuple[np.ndarray, float]:
    model = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters=transformers_parameters(config),
    )
    compute = ROPE_INIT_FUNCTIONS.get(config.kind, LlamaRotaryEmbedding.compute_default_rope_parameters)
    inverse, scale = compute(model, device="cpu")
    return inverse.numpy(), scale


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("head_dim", [4, 64, 96, 128])
def test_frequencies_are_those_of_transformers(name: str, head_dim: int) -> None:
    ours = rope_frequencies(CONFIGS[name], head_dim, MAX_POSITIONS)
    theirs, scale = transformers_frequencies(CONFIGS[name], head_dim)

    assert ours.inverse.dtype == np.float64
    assert ours.inverse.shape == (head_dim // 2,)
    np.testing.assert_allclose(ours.inverse.astype(np.float32), theirs, rtol=1e-6, atol=0)
    assert ours.scale == pytest.approx(scale, rel=1e-12)


def test_every_scaling_of_the_list_changes_something() -> None:
    """Else the comparison above would pass with rules that are never reached."""
    plain = rope_frequencies(RopeConfig(theta=5e5), 64, MAX_POSITIONS).inverse
    for kind in ("linear", "llama3", "yarn"):
        config = RopeConfig(kind=kind, theta=5e5, factor=8.0, original_max_positions=2048)
        scaled = rope_frequencies(config, 64, MAX_POSITIONS).inverse
        assert scaled[-1] == pytest.approx(plain[-1] / 8)


def test_yarn_range_of_minimind() -> None:
    """The published range for theta 1e6 and 2048 positions: with D = 96 pairs 0 to 8 stay, from 21 on all is slowed."""
    plain = rope_frequencies(RopeConfig(theta=1e6), 96, MAX_POSITIONS).inverse
    ratio = rope_frequencies(YARN, 96, MAX_POSITIONS).inverse / plain
    np.testing.assert_allclose(ratio[:9], 1.0)
    assert (ratio[9:21] < 1.0).all()
    assert (ratio[9:21] > 1 / 16).all()
    np.testing.assert_allclose(ratio[21:], 1 / 16)


def test_divisors_of_a_gguf_file_divide_pair_by_pair() -> None:
    divisors = (1.0, 2.0, 8.0, 32.0)
    plain = rope_frequencies(RopeConfig(), 8, MAX_POSITIONS)
    divided = rope_frequencies(RopeConfig(frequency_divisors=divisors), 8, MAX_POSITIONS)
    np.testing.assert_allclose(divided.inverse * np.array(divisors), plain.inverse)
    assert divided.scale == 1.0


@pytest.mark.parametrize(
    "config",
    [
        RopeConfig(kind="linear", factor=1e-320),
        RopeConfig(kind="linear", factor=1e-37),  # finite for one position, but not for the last
        RopeConfig(frequency_divisors=(1e-40,) * 32),
        dataclasses.replace(YARN, factor=1e-300),
        dataclasses.replace(YARN, attention_factor=1e308),
        dataclasses.replace(YARN, attention_factor=1e20),  # a query times a key has it twice
        dataclasses.replace(YARN, mscale=1e308, mscale_all_dim=1.0),
        dataclasses.replace(YARN, beta_fast=1e308),
        dataclasses.replace(YARN, beta_slow=1e308),
        dataclasses.replace(YARN, beta_fast=1e-320),
        dataclasses.replace(YARN, beta_slow=1e-320),
    ],
    ids=str,
)
def test_frequencies_that_float32_cannot_hold_are_refused(config: RopeConfig) -> None:
    with pytest.raises(ValueError, match="not finite in float32"):
        rope_frequencies(config, 64, MAX_POSITIONS)
