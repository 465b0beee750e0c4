"""The rotary keys of a Hugging Face `config.json`: `rope_parameters` (transformers 5) or `rope_scaling` and
`rope_theta` (transformers 4), each with `rope_type` or the older `type`. Owns their names, defaults and refusals; what
they do to frequencies is `model/rope.py`'s."""

from typing import get_args

from model.config import RopeConfig, RopeKind
from model.errors import ModelError
from model.formats.json_object import JsonObject

_KINDS: dict[str, RopeKind] = {kind: kind for kind in get_args(RopeKind)}
_KNOWN_KEYS = {
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "partial_rotary_factor",  # refused unless 1
    "finetuned",  # early YaRN models say so; it changes nothing
}


def read_rope(config: JsonObject, max_positions: int) -> RopeConfig:
    rope = config.child("rope_scaling" if config.values.get("rope_scaling") else "rope_parameters")
    kind = _kind(rope)
    _refuse_partial_rotation(config)
    _refuse_partial_rotation(rope)
    theta = _theta(rope if rope.has("rope_theta") else config)
    if kind == "default":
        return RopeConfig(theta=theta)
    if kind == "linear":
        return RopeConfig(theta=theta, kind=kind, factor=rope.positive("factor"))
    original = config if config.has("original_max_position_embeddings") else rope
    original_max_positions = original.integer("original_max_position_embeddings", max_positions)
    if kind == "llama3":
        return _llama3(rope, theta, original_max_positions)
    return _yarn(rope, theta, original_max_positions, max_positions)


def _theta(place: JsonObject) -> float:
    theta = place.positive("rope_theta", 10000.0)
    if theta <= 1:
        raise place.wrong("rope_theta", "above 1")
    return theta


def _kind(rope: JsonObject) -> RopeKind:
    key = "rope_type" if rope.has("rope_type") else "type"
    name = rope.text(key, "default")
    if name not in _KINDS:
        raise rope.wrong(key, f"one of {', '.join(_KINDS)}")
    for unknown in rope.values.keys() - _KNOWN_KEYS:
        raise ModelError(rope.path, f"the key {rope.name}{unknown} is unknown and might change the rotation.")
    return _KINDS[name]


def _refuse_partial_rotation(place: JsonObject) -> None:
    if place.number("partial_rotary_factor", 1.0) != 1.0:
        raise place.wrong("partial_rotary_factor", "1: heads are rotated as a whole")


def _llama3(rope: JsonObject, theta: float, original_max_positions: int) -> RopeConfig:
    low = rope.positive("low_freq_factor")
    high = rope.positive("high_freq_factor")
    if high <= low:
        raise rope.wrong("high_freq_factor", f"above low_freq_factor, which is {low}")
    return RopeConfig(
        theta=theta,
        kind="llama3",
        factor=rope.positive("factor"),
        original_max_positions=original_max_positions,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn(rope: JsonObject, theta: float, original_max_positions: int, max_positions: int) -> RopeConfig:
    """Zero stands for an absent value in beta_fast, beta_slow and the mscales, as in transformers."""

    def optional(key: str) -> float | None:
        return rope.number(key, least=0) if rope.has(key) else None

    return RopeConfig(
        theta=theta,
        kind="yarn",
        factor=rope.positive("factor", max_positions / original_max_positions),
        original_max_positions=original_max_positions,
        beta_fast=optional("beta_fast") or 32.0,
        beta_slow=optional("beta_slow") or 1.0,
        attention_factor=optional("attention_factor"),
        mscale=optional("mscale"),
        mscale_all_dim=optional("mscale_all_dim"),
        truncate=rope.flag("truncate", True),
    )
