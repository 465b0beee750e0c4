"""PEFT's folders: what the config says of the scale is done, what it says beyond that is refused by name."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import ModelError
from model.formats.peft import read
from tests.model.adapters import save_peft
from tests.model.hf_models import edit_json
from tests.model.random_checkpoint import LLAMA

NAMES = ("q_proj", "down_proj")
MODULE = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"r": 4, "lora_alpha": 16}, 4.0),
        ({"r": 4, "lora_alpha": 16, "use_rslora": True}, 8.0),
        ({"r": 4, "lora_alpha": 16, "rank_pattern": {"down_proj": 2}}, 8.0),
        ({"r": 4, "lora_alpha": 16, "alpha_pattern": {"^" + MODULE: 10, "down_proj": 20}}, 2.5),
        (
            {"r": 4, "lora_alpha": 16, "alpha_pattern": {"^down_proj": 10, "n_proj": 12, "layers.1.mlp.down_proj": 6}},
            1.5,
        ),
        ({"lora_alpha": 12, "use_rslora": True, "rank_pattern": {MODULE: 3}}, 12 / math.sqrt(3)),
        ({}, 1.0),
    ],
)
def test_what_is_added_is_what_peft_adds(settings: dict[str, Any], scale: float, tmp_path: Path) -> None:
    tensors = save_peft(tmp_path, LLAMA, settings, NAMES)
    x = torch.randn(5, LLAMA.intermediate_size)

    pair = read("tuned", tmp_path, LLAMA).pairs[f"{MODULE}.weight"]

    a, b = (tensors[f"base_model.model.{MODULE}.lora_{side}.weight"] for side in "AB")
    torch.testing.assert_close(x @ torch.tensor(pair.b @ pair.a).T, (x @ a.T @ b.T) * scale, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("peft_type", "IA3", 'peft_type is "IA3"; it must be LORA'),
        ("bias", "all", r'bias is "all"; it must be one of \["none"\]'),
        ("fan_in_fan_out", True, "fan_in_fan_out is true; it must be absent"),
        ("modules_to_save", ["lm_head"], r'modules_to_save is \["lm_head"\]; it must be absent'),
        ("use_dora", True, "use_dora is true; it must be absent"),
        ("lora_bias", True, "lora_bias is true; it must be absent"),
        ("something_new", 7, "something_new is 7; it must be absent"),
        ("init_lora_weights", "pissa_niter_4", 'init_lora_weights is "pissa_niter_4"; it must be one of'),
        ("r", 0, "r is 0; it must be a whole number"),
        ("r", 5, "down_proj.lora_A.weight has shape .*; by adapter_config.json its rank is 5"),
        ("lora_alpha", "16", "lora_alpha is"),
        ("rank_pattern", {".*_proj": 4}, "rank_pattern.*_proj is 4; it must be under the name of a module"),
        ("alpha_pattern", {"q_proj": None}, "the key alpha_pattern.q_proj is missing"),
        ("target_modules", ["q_proj"], "there are tensors of .*down_proj, which is not among target_modules"),
        ("target_modules", ["q_proj", "down_proj", "v_proj"], "target_modules has v_proj, but no tensor"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(key: str, value: object, problem: str, tmp_path: Path) -> None:
    save_peft(tmp_path, LLAMA, {"r": 4}, NAMES)
    edit_json(tmp_path / "adapter_config.json", **{key: value})

    with pytest.raises(ModelError, match=problem):
        read("tuned", tmp_path, LLAMA)


def test_what_peft_writes_beside_is_accepted(tmp_path: Path) -> None:
    """The keys of PEFT 0.17, at what they are without asking."""
    nothing = (
        "alora_invocation_tokens",
        "layer_replication",
        "megatron_config",
        "modules_to_save",
        "target_parameters",
    )
    others = {"fan_in_fan_out": False, "use_dora": False, "use_qalora": False, "lora_bias": False, "bias": "none"}
    known = {"init_lora_weights": True, "qalora_group_size": 16, "lora_dropout": 0.05, "megatron_core": "megatron.core"}
    settings = {"r": 4, "target_modules": "all-linear", "base_model_name_or_path": "x", "inference_mode": True}
    save_peft(tmp_path, LLAMA, settings | others | known | dict.fromkeys(nothing), NAMES)

    assert len(read("tuned", tmp_path, LLAMA).pairs) == 2 * LLAMA.num_layers


def test_a_tensor_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    save_peft(tmp_path, LLAMA, {"r": 4}, NAMES)
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes().replace(b"layers.1.mlp.down_proj.lora_A", b"layers.1.mlp.down_proj.lora_E"))

    with pytest.raises(ModelError, match=r"down_proj\.lora_E\.weight is left over"):
        read("tuned", tmp_path, LLAMA)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    save_peft(tmp_path, LLAMA, {"r": 4}, NAMES)
    os.rename(tmp_path / "adapter_model.safetensors", tmp_path / "adapter_model.bin")

    with pytest.raises(ModelError, match="a pickle .adapter_model.bin., which is not read"):
        read("tuned", tmp_path, LLAMA)


def test_a_folder_without_a_config_is_none(tmp_path: Path) -> None:
    save_peft(tmp_path, LLAMA, {"r": 4}, NAMES)
    (tmp_path / "adapter_config.json").write_text(json.dumps([]))

    with pytest.raises(ModelError, match="holds a JSON list, not an object"):
        read("tuned", tmp_path, LLAMA)
