"""From metadata to a ModelConfig: every key that counts, every key that is refused."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from model.config import ModelConfig, RopeConfig
from model.errors import ModelError
from model.formats.checkpoint import GenerationDefaults
from model.formats.gguf_config import read_config, read_generation_defaults
from model.formats.gguf_container import Container, open_container
from tests.model.gguf_files import add_tensor, gguf_writer, save, small_config

Open = Callable[..., Container]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """A file of the given config, with keys set, or taken away where the value is None."""

    def open_with(config: ModelConfig = small_config(), **keys: Any) -> Container:  # noqa: B008 (frozen)
        writer = gguf_writer(config)
        for name, value in keys.items():
            set_key(writer, name.replace("__", "."), value)
        save(writer, tmp_path / "model.gguf")
        return open_container(tmp_path / "model.gguf")

    return open_with


def set_key(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    writer.kv_data[0].pop(name, None)
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_int32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    elif value is not None:
        writer.add_array(name, value)


@pytest.mark.parametrize(
    "config",
    [
        small_config("llama"),
        small_config("llama", tie_word_embeddings=True, head_dim=16),
        small_config("llama", qkv_bias=True, output_bias=True, mlp_bias=True),
        small_config("llama", rope=RopeConfig(theta=500000.0)),
        small_config("qwen2"),
        small_config("qwen3", num_kv_heads=4),
        small_config("qwen3moe", tie_word_embeddings=True),
    ],
)
def test_the_config_written_is_the_config_read(opened: Open, config: ModelConfig) -> None:
    assert read_config(opened(config)) == config


def test_absent_keys_have_llama_cpps_defaults(opened: Open) -> None:
    names = ["attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count"]
    absent = {f"llama.{name}": None for name in [*names, "rope.freq_base", "vocab_size"]}
    config = small_config(num_kv_heads=4, head_dim=16)
    assert read_config(opened(config, **absent, **{"general.type": None})) == config


def test_a_value_for_each_layer_counts_where_all_are_equal(opened: Open) -> None:
    arrays = {"llama.attention.head_count": [4, 4], "llama.attention.head_count_kv": [2, 2]}
    assert read_config(opened(**arrays, **{"llama.feed_forward_length": [96, 96]})) == small_config()
    with pytest.raises(ModelError, match=r"'llama\.attention\.head_count_kv' is \[2, 1\]; .* the same in all layers"):
        read_config(opened(**{"llama.attention.head_count_kv": [2, 1]}))


LINEAR = RopeConfig(kind="linear", factor=4.0)
YARN = RopeConfig(kind="yarn", factor=4.0)
YARN_TEMPERATURE = 0.1 * math.log(4.0) + 1.0


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"type": "none", "factor": 4.0}, RopeConfig(factor=4.0)),
        ({"type": "linear", "factor": 4.0}, RopeConfig(kind="linear", factor=4.0)),
        ({"factor": 4.0, "original_context_length": 64}, replace(LINEAR, original_max_positions=64)),
        ({"type": "linear", "factor": 1.0, "finetuned": True}, RopeConfig()),
        ({"type": "yarn", "factor": 4.0}, YARN),
        ({"type": "yarn", "factor": 4.0, "original_context_length": 64}, replace(YARN, original_max_positions=64)),
        ({"type": "yarn", "factor": 4.0, "yarn_beta_fast": 16.0}, replace(YARN, beta_fast=16.0)),
        ({"type": "yarn", "factor": 4.0, "yarn_beta_slow": 2.0}, replace(YARN, beta_slow=2.0)),
        ({"type": "yarn", "factor": 4.0, "yarn_attn_factor": 1.0}, replace(YARN, attention_factor=1.0)),
        ({"type": "yarn", "factor": 4.0, "attn_factor": 0.5}, replace(YARN, attention_factor=0.5 * YARN_TEMPERATURE)),
        ({"type": "yarn", "factor": 4.0, "yarn_ext_factor": 1.0, "yarn_log_multiplier": 0.0, "attn_factor": 1.0}, YARN),
    ],
)
def test_rotary_scaling(opened: Open, keys: dict[str, Any], expected: RopeConfig) -> None:
    assert read_config(opened(**{f"llama.rope.scaling.{name}": value for name, value in keys.items()})).rope == expected


def test_the_old_name_of_the_factor_counts(opened: Open) -> None:
    rope = read_config(opened(**{"llama.rope.scale_linear": 2.0})).rope
    assert rope == RopeConfig(kind="linear", factor=2.0)


def with_divisors(tmp_path: Path, divisors: list[float]) -> Container:
    writer = gguf_writer(small_config())
    add_tensor(writer, "rope_freqs.weight", np.array(divisors, np.float32), "F32")
    save(writer, tmp_path / "model.gguf")
    return open_container(tmp_path / "model.gguf")


def test_rope_freqs_become_divisors(tmp_path: Path) -> None:
    divisors = [1.0, 2.0, 4.0, 8.0] * 4
    assert read_config(with_divisors(tmp_path, divisors)).rope == RopeConfig(frequency_divisors=tuple(divisors))


@pytest.mark.parametrize("divisors", [[1.0] * 15, [1.0] * 15 + [0.0], [1.0] * 15 + [math.nan], [1.0] * 15 + [-8.0]])
def test_rope_freqs_that_cannot_divide_are_refused(tmp_path: Path, divisors: list[float]) -> None:
    with pytest.raises(ModelError, match=r"'rope_freqs\.weight'"):
        read_config(with_divisors(tmp_path, divisors))


def test_rope_freqs_of_another_shape_are_not_even_decoded(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'rope_freqs\.weight' has to have 16 values"):
        read_config(with_divisors(tmp_path, [math.nan] * 17))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("general.architecture", "mamba", "is 'mamba'; these can be served: llama, qwen2, qwen3, qwen3moe"),
        ("general.architecture", None, "is missing"),
        ("general.type", "adapter", "is 'adapter'; only a whole model"),
        ("general.quantization_version", 1, "is 1; only version 2"),
        ("split.count", 3, "is 3; .* llama-gguf-split --merge"),
        ("llama.block_count", None, "is missing"),
        ("llama.block_count", 2**31 - 1, "1 to 512"),
        ("llama.context_length", 0, "at least 1"),
        ("llama.embedding_length", "64", "is '64'"),
        ("llama.attention.head_count", 0, "at least 1"),
        ("llama.attention.head_count_kv", 3, "has to divide the 4 heads"),
        ("llama.attention.value_length", 16, "only the length of a key, 32"),
        ("llama.rope.dimension_count", 16, "only the length of a key, 32"),
        ("llama.attention.layer_norm_rms_epsilon", None, "is missing"),
        ("llama.attention.layer_norm_rms_epsilon", math.nan, "a finite number"),
        ("llama.vocab_size", 95, "is 95; tensor 'token_embd.weight' has 96 rows"),
        ("tokenizer.ggml.tokens", ["a", "b"], "has 2 tokens, but tensor 'token_embd.weight' has 96"),
        ("llama.rope.freq_base", 1.0, "above 1 is needed"),
        ("llama.rope.scaling.type", "longrope", "is 'longrope'; these are implemented: none, linear, yarn"),
        ("llama.rope.scaling.factor", 0.0, "above 0 is needed"),
        ("llama.rope.scaling.attn_factor", 1.5, "without YaRN only 1"),
        ("llama.rope.scaling.yarn_ext_factor", 0.5, "only -1 or 1"),
        ("llama.expert_count", 8, "is 8; experts are implemented for qwen3moe, not for llama"),
        ("llama.attention.sliding_window", 4096, "is 4096; only 0 is implemented"),
        ("llama.attention.sliding_window", [0, 4096], "only 0 is implemented"),
        ("llama.attention.causal", False, "is False; only True is implemented"),
        ("llama.attention.scale", 0.0883, "only 0 is implemented"),
        ("llama.logit_scale", 0.25, "is 0.25; only 0 or 1 is implemented"),
        ("llama.final_logit_softcapping", 30.0, "is 30.0; only 0 is implemented"),
        ("llama.expert_shared_count", 1, "is 1; only 0 is implemented"),
        ("llama.rope.dimension_sections", [8, 8, 0, 0], "not implemented here"),
        ("llama.line\\nbreak", 1, "not implemented here"),
        ("llama.key_of_next_year", "on", "is 'on'; what this key asks of the model is not implemented here"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(opened: Open, name: str, value: Any, expected: str) -> None:
    with pytest.raises(ModelError, match=expected) as caught:
        read_config(opened(**{name: value}))
    assert repr(name) in caught.value.problem


def test_an_odd_head_is_refused(opened: Open) -> None:
    lengths = dict.fromkeys(["attention.key_length", "attention.value_length", "rope.dimension_count"], 33)
    with pytest.raises(ModelError, match="33, an odd number"):
        read_config(opened(**{f"llama.{name}": value for name, value in lengths.items()}))


def test_heads_that_do_not_divide_the_embedding_need_a_length(opened: Open) -> None:
    keys = {"llama.attention.key_length": None, "llama.attention.head_count": 6}
    with pytest.raises(ModelError, match=r"'llama\.attention\.key_length' is missing; 6 heads do not divide"):
        read_config(opened(**keys))


def test_keys_that_change_nothing_are_no_obstacle(opened: Open) -> None:
    keys = {
        "attention.sliding_window": 0,
        "attention.causal": True,
        "logit_scale": 1.0,
        "use_parallel_residual": False,
        "tensor_data_layout": "Meta AI original pth",
        "expert_used_count": 2,
        "expert_count": 0,
    }
    container = opened(**{f"llama.{name}": value for name, value in keys.items()}, **{"other.key": 5, "split.count": 1})
    assert read_config(container) == small_config()


@pytest.mark.parametrize(
    ("name", "value"),
    [("expert_count", 0), ("expert_count", 513), ("expert_used_count", 5), ("expert_gating_func", 2),
     ("expert_weights_scale", 2.5), ("expert_weights_norm", False), ("expert_count", None)],
)  # fmt: skip
def test_experts_of_another_kind_are_refused(opened: Open, name: str, value: Any) -> None:
    with pytest.raises(ModelError, match=f"'qwen3moe.{name}'"):
        read_config(opened(small_config("qwen3moe"), **{f"qwen3moe.{name}": value}))


def test_an_absent_expert_size_is_the_share_of_the_feed_forward_size(opened: Open) -> None:
    moe = read_config(opened(small_config("qwen3moe"), **{"qwen3moe.expert_feed_forward_length": None})).moe
    assert moe is not None
    assert moe.intermediate_size == 96 // 2


def test_the_authors_sampling_is_read(opened: Open) -> None:
    keys = {"temp": 0.5, "top_k": 20, "top_p": 0.75, "min_p": 0.0, "penalty_repeat": 1.5, "mirostat": 0}
    container = opened(**{f"general.sampling.{name}": value for name, value in keys.items()})
    assert read_generation_defaults(container) == GenerationDefaults(0.5, 0.75, 20, 0.0, 1.5)
    assert read_generation_defaults(opened()) == GenerationDefaults()
    assert read_generation_defaults(opened(**{"general.sampling.top_k": -1})).top_k == 0  # no limit


@pytest.mark.parametrize(
    ("name", "value"),
    [("temp", -1.0), ("temp", 1e30), ("top_p", 5.0), ("min_p", 2.0), ("top_k", -2), ("penalty_repeat", 0.0),
     ("penalty_repeat", 1e-38), ("penalty_repeat", 1e30)],
)  # fmt: skip
def test_sampling_values_out_of_bounds_are_refused(opened: Open, name: str, value: float) -> None:
    with pytest.raises(ModelError, match=rf"'general\.sampling\.{name}' is "):
        read_generation_defaults(opened(**{f"general.sampling.{name}": value}))
