"""Rotary frequencies: from a `RopeConfig` the angle that each pair of a head turns by for one position.

Owns the scaling rules (linear, Llama 3, YaRN), in float64 and once for all backends. It never rotates anything: a
backend multiplies by positions, takes cosine and sine, and multiplies both by `scale`. The definitions are those of
transformers' `modeling_rope_utils`, where models with such a config are trained and tested.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.config import RopeConfig, RopeKind

Frequencies = NDArray[np.float64]  # [D/2]


@dataclass(frozen=True, slots=True, eq=False)
class RopeFrequencies:
    """Position p turns the pair (x[i], x[i + D/2]) by p * inverse[i]."""

    inverse: Frequencies  # [D/2], radians for one position
    scale: float  # of cosine and sine, so that YaRN's attention temperature needs no place of its own


def rope_frequencies(config: RopeConfig, head_dim: int, max_positions: int) -> RopeFrequencies:
    """`max_positions` (the model's, not the server's limit) stands in for an absent `original_max_positions`. Raises
    ValueError for a config so extreme that float32, which backends compute in, does not hold what comes of it."""
    assert head_dim % 2 == 0, head_dim
    try:
        with np.errstate(all="ignore"):  # seen below
            rope = _frequencies(config, head_dim, max_positions)
            products = np.append(rope.inverse * max_positions, rope.scale * rope.scale)  # the last angle; in q times k
            is_sound = bool(np.isfinite(products.astype(np.float32)).all())
    except (ValueError, ArithmeticError):  # of `math`: a logarithm of zero, an infinity to be rounded
        is_sound = False
    if not is_sound:
        raise ValueError("the rotary frequencies that follow from theta and scaling are not finite in float32")
    return rope


def _frequencies(config: RopeConfig, head_dim: int, max_positions: int) -> RopeFrequencies:
    original = config.original_max_positions or max_positions
    plain = config.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    inverse = _SCALINGS[config.kind](config, plain, original)
    if config.frequency_divisors:
        assert len(config.frequency_divisors) == head_dim // 2, len(config.frequency_divisors)
        inverse = inverse / np.asarray(config.frequency_divisors, dtype=np.float64)
    scale = _yarn_scale(config) if config.kind == "yarn" else 1.0
    return RopeFrequencies(inverse=inverse, scale=scale)


def _default(_config: RopeConfig, plain: Frequencies, _original: int) -> Frequencies:
    return plain


def _linear(config: RopeConfig, plain: Frequencies, _original: int) -> Frequencies:
    return plain / config.factor


def _llama3(config: RopeConfig, plain: Frequencies, original: int) -> Frequencies:
    """Pairs that turn often within the original context stay, those that hardly turn are slowed down by the factor,
    and those between are a mixture (Llama 3.1's reference code)."""
    turns = original * plain / (2 * math.pi)  # in the original context
    kept = (turns - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor)
    return _mixture(config.factor, plain, kept)


def _yarn(config: RopeConfig, plain: Frequencies, original: int) -> Frequencies:
    """YaRN (arXiv 2309.00071), section 3.2: the same mixture as Llama 3's, but linear in the index of the pair."""
    half = len(plain)
    low, high = _yarn_range(config, 2 * half, original)
    ramp = (np.arange(half, dtype=np.float64) - low) / (high - low)
    return _mixture(config.factor, plain, 1 - ramp)


def _yarn_range(config: RopeConfig, head_dim: int, original: int) -> tuple[float, float]:
    """The pairs that turn beta_fast and beta_slow times in the original context. The upper bound is D - 1 as in
    transformers, although there are D/2 pairs; MiniMind's own code says D/2 - 1, which none of its models reaches."""

    def pair_that_turns(times: float) -> float:
        return head_dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(config.theta))

    low, high = pair_that_turns(config.beta_fast), pair_that_turns(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return (low, high) if low != high else (low, high + 0.001)  # a step instead of a division by zero


def _mixture(factor: float, plain: Frequencies, kept: Frequencies) -> Frequencies:
    kept = np.clip(kept, 0.0, 1.0)
    return plain * kept + plain / factor * (1.0 - kept)


def _yarn_scale(config: RopeConfig) -> float:
    if config.attention_factor is not None:
        return config.attention_factor
    if config.mscale and config.mscale_all_dim:
        return _temperature(config.factor, config.mscale) / _temperature(config.factor, config.mscale_all_dim)
    return _temperature(config.factor, 1.0)


def _temperature(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


_SCALINGS: dict[RopeKind, Callable[[RopeConfig, Frequencies, int], Frequencies]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
