"""Every spelling of the rotary keys against what transformers makes of the same `config.json`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from model.errors import ModelError
from model.formats.huggingface_rope import read_rope
from model.formats.json_object import JsonObject
from model.rope import rope_frequencies

HEAD_DIM = 32
MAX_POSITIONS = 512

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"factor": 4.0, "original_max_position_embeddings": 128}

SPELLINGS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "both null": {"rope_scaling": None, "rope_parameters": None},
    "transformers 4": {"rope_theta": 5e5, "rope_scaling": None},
    "transformers 5": {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
    "theta outside of rope_parameters": {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}},
    "theta in both places": {"rope_theta": 7.0, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
    "old type key": {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "both type keys": {"rope_scaling": {"type": "dynamic", "rope_type": "linear", "factor": 2.0}},
    "whole numbers": {"rope_theta": 500000, "rope_scaling": {"type": "linear", "factor": 2}},
    "an empty rope_scaling": {"rope_scaling": {}, "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
    "rope_scaling before rope_parameters": {
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "rope_parameters": {"rope_type": "linear", "factor": 4.0},
    },
    "llama3": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
    "llama3 of transformers 4": {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    "original length outside": {
        "original_max_position_embeddings": 128,
        "rope_parameters": {"rope_type": "llama3", **LLAMA3},
    },
    "yarn": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **YARN}},
    "yarn of MiniMind": {
        "rope_theta": 1e6,
        "rope_scaling": {"type": "yarn", "beta_fast": 32, "beta_slow": 1, "attention_factor": 1.0, **YARN},
    },
    "yarn, original length not said": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
    "yarn, factor null": {"rope_parameters": {"rope_type": "yarn", **YARN, "factor": None}},
    "yarn, betas null or zero": {"rope_parameters": {"rope_type": "yarn", **YARN, "beta_fast": None, "beta_slow": 0}},
    "yarn, all keys": {
        "rope_parameters": {
            "rope_type": "yarn",
            **YARN,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 0.7,
            "mscale_all_dim": 1.2,
            "truncate": False,
        }
    },
    "yarn that says it is finetuned": {"rope_scaling": {"type": "yarn", "finetuned": True, **YARN}},
}


def read(values: dict[str, Any]) -> Any:
    return read_rope(JsonObject(Path("config.json"), values), MAX_POSITIONS)


@pytest.mark.parametrize("name", SPELLINGS)
def test_frequencies_are_those_of_transformers(name: str) -> None:
    values = {"hidden_size": 4 * HEAD_DIM, "num_attention_heads": 4, "max_position_embeddings": MAX_POSITIONS}
    theirs = LlamaRotaryEmbedding(LlamaConfig.from_dict(json.loads(json.dumps(values | SPELLINGS[name]))))

    ours = rope_frequencies(read(SPELLINGS[name]), HEAD_DIM, MAX_POSITIONS)

    np.testing.assert_allclose(ours.inverse.astype(np.float32), theirs.inv_freq.numpy(), rtol=1e-6, atol=0)
    assert ours.scale == pytest.approx(theirs.attention_scaling, rel=1e-12)


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "proportional", "su", "mrope", "axial", "LINEAR", ""])
@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_other_kinds_are_refused_by_name(key: str, kind: str) -> None:
    with pytest.raises(
        ModelError, match=rf'rope_scaling\.{key} is "{kind}"; it must be one of default, linear, llama3'
    ):
        read({"rope_scaling": {key: kind, "factor": 2.0}})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "rope_scaling.factor"),
        ({"rope_scaling": {"type": "yarn", "factor": float("nan")}}, "rope_scaling.factor"),
        ({"rope_scaling": {"type": "yarn", **YARN, "beta_fast": -1.0}}, "rope_scaling.beta_fast"),
        ({"rope_scaling": {"type": "yarn", **YARN, "truncate": 1}}, "rope_scaling.truncate"),
        (
            {"rope_parameters": {"rope_type": "yarn", **YARN, "original_max_position_embeddings": 0}},
            "rope_parameters.original_max_position_embeddings",
        ),
        ({"rope_scaling": {"type": "llama3", **LLAMA3, "low_freq_factor": None}}, "rope_scaling.low_freq_factor"),
        ({"rope_scaling": {"type": "llama3", **LLAMA3, "high_freq_factor": 1.0}}, "rope_scaling.high_freq_factor"),
        ({"rope_theta": 1.0}, "rope_theta"),
        ({"rope_theta": -1e4}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": "1e4"}}, "rope_parameters.rope_theta"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters.partial_rotary_factor"),
        ({"rope_parameters": {"mrope_section": [1, 2]}}, "rope_parameters.mrope_section"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters.full_attention"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        ({"rope_scaling": {"type": 3}}, "rope_scaling.type"),
    ],
)
def test_a_value_that_cannot_be_served_is_refused_by_key(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=rf"config\.json: (the key )?{named} is "):
        read(values)


def test_a_whole_rotation_may_be_said() -> None:
    assert read({"partial_rotary_factor": 1.0, "rope_theta": 5e5}) == read({"rope_theta": 5e5})
