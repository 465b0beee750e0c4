"""Both files, as this project and transformers read them. `tests/model/test_huggingface_export.py` has whole models."""

import json
from dataclasses import replace

import pytest
from transformers import LlamaConfig, Qwen3MoeConfig

from model.config import ModelConfig, MoeConfig, RopeConfig
from model.formats.checkpoint import GenerationDefaults
from model.formats.huggingface_config import read_config, read_generation_defaults
from model.formats.huggingface_writer import config_of, generation_config_of, huggingface_class, one_or_all
from tests.model.random_checkpoint import LLAMA, QWEN2, QWEN3, QWEN3_MOE, random_checkpoint

ROPES = [
    RopeConfig(theta=5e5),
    RopeConfig(kind="linear", factor=4.0),
    RopeConfig(
        kind="llama3", factor=8.0, original_max_positions=128, low_freq_factor=1.5, high_freq_factor=3.0, theta=5e5
    ),
    RopeConfig(kind="yarn", factor=16.0, original_max_positions=32, attention_factor=1.0, theta=1e6),
    RopeConfig(kind="yarn", factor=4.0, original_max_positions=128, beta_fast=16.0, beta_slow=2.0, truncate=False),
    RopeConfig(kind="yarn", factor=4.0, original_max_positions=128, mscale=0.7, mscale_all_dim=0.9),
]


def written(config, folder):
    (folder / "config.json").write_text(json.dumps(config_of(random_checkpoint(config, 0), {"eos_token_id": 2})))
    return folder


@pytest.mark.parametrize("config", [LLAMA, QWEN2, QWEN3, QWEN3_MOE, replace(LLAMA, qkv_bias=True, output_bias=True)])
def test_the_config_is_read_as_it_was(config, tmp_path):
    assert read_config(written(config, tmp_path)) == config


@pytest.mark.parametrize("rope", ROPES)
def test_the_rotation_is_read_as_it_was(rope, tmp_path):
    assert read_config(written(replace(LLAMA, rope=rope), tmp_path)).rope == rope


@pytest.mark.parametrize("rope", ROPES[1:])
def test_transformers_reads_the_rotation(rope, tmp_path):
    theirs = LlamaConfig.from_pretrained(written(replace(LLAMA, rope=rope), tmp_path)).rope_parameters

    assert (theirs["rope_type"], theirs["rope_theta"], theirs["factor"]) == (rope.kind, rope.theta, rope.factor)
    assert theirs.get("original_max_position_embeddings") == rope.original_max_positions
    assert theirs.get("attention_factor") == rope.attention_factor


def test_a_context_that_is_not_said_is_the_models(tmp_path):
    config = replace(LLAMA, rope=RopeConfig(kind="yarn", factor=2.0))

    assert read_config(written(config, tmp_path)).rope.original_max_positions == config.max_positions


def test_transformers_reads_the_experts(tmp_path):
    theirs = Qwen3MoeConfig.from_pretrained(written(QWEN3_MOE, tmp_path))

    assert (theirs.num_experts, theirs.num_experts_per_tok, theirs.moe_intermediate_size) == (6, 2, 32)
    assert theirs.mlp_only_layers == [1]
    assert theirs.norm_topk_prob is True


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (LLAMA, "LlamaForCausalLM"),
        (replace(LLAMA, mlp_bias=True), "LlamaForCausalLM"),
        (QWEN2, "Qwen2ForCausalLM"),
        (QWEN3, "Qwen3ForCausalLM"),
        (QWEN3_MOE, "Qwen3MoeForCausalLM"),
        (replace(QWEN3, mlp_bias=True), None),
        (replace(QWEN2, mlp_bias=True), None),
        (replace(QWEN3, output_bias=True), None),
        (replace(LLAMA, output_bias=True), None),
        (replace(QWEN3_MOE, qk_norm=False), None),
        (replace(QWEN3_MOE, moe=MoeConfig(4, 2, 32, norm_topk_prob=True, num_shared_experts=1)), None),
        (replace(LLAMA, rope=RopeConfig(frequency_divisors=(2.0,) * 8)), None),
    ],
)
def test_the_class_is_one_that_computes_the_same(config: ModelConfig, name):
    assert huggingface_class(config) == name


@pytest.mark.parametrize(
    "defaults",
    [
        GenerationDefaults(),
        GenerationDefaults(temperature=0.7, top_p=0.8, top_k=20, min_p=0.1, repetition_penalty=1.05),
        GenerationDefaults(temperature=0.0),
        GenerationDefaults(temperature=0.0, repetition_penalty=1.1),
        GenerationDefaults(top_k=0),
    ],
)
def test_sampling_defaults_are_read_as_they_were(defaults, tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps(generation_config_of(defaults, {"eos_token_id": 2})))

    assert read_generation_defaults(tmp_path) == defaults


def test_ends_of_text_are_written_as_transformers_does():
    assert [one_or_all(ids) for ids in ([], [2], [7, 2])] == [None, 2, [2, 7]]
