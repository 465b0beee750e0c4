"""Folders of `model_type: minimind` give what the native file of the same weights gives; settings that contradict the
tensors, or that nobody here computes, are refused by name, and the Python file beside them is not run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model.config import RopeConfig
from model.errors import ModelError
from model.formats import minimind
from model.formats.checkpoint import Checkpoint
from model.formats.minimind_folder import read
from model.load import Format, detect_format
from tests.model.hf_models import edit_json
from tests.model.minimind_data import EXPORTS, GOLDEN, MINIMIND, needs_minimind

pytestmark = needs_minimind

ERAS = ["v1", "v1-moe", "v2-early", "v2-early-moe", "v2", "v2-moe", "v3", "v3-moe", "v3-untied"]
YARN = {"type": "yarn", "factor": 16, "original_max_position_embeddings": 2048, "beta_fast": 32, "beta_slow": 1}


def native_file(era: str) -> Path:
    return GOLDEN / era / ("full_sft_64_moe.pth" if era.endswith("moe") else "full_sft_64.pth")


def make_folder(folder: Path, era: str, **changes: Any) -> Path:
    """As the class of that generation saves it: its settings, and its tensors as pytorch_model.bin."""
    folder.mkdir()
    shutil.copyfile(MINIMIND / "native_configs" / f"{era}.json", folder / "config.json")
    (folder / "pytorch_model.bin").symlink_to(native_file(era))
    edit_json(folder / "config.json", **changes)
    return folder


def expect_same_weights(ours: Checkpoint, theirs: Checkpoint) -> None:
    assert ours.weights.keys() == theirs.weights.keys()
    for name, tensor in ours.weights.items():
        np.testing.assert_array_equal(tensor.to_float32(), theirs.weights[name].to_float32(), err_msg=name)


@pytest.mark.parametrize("era", ERAS)
def test_a_folder_of_any_generation_is_its_native_file_and_a_config(era: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", era)
    checkpoint, native = read(folder), minimind.read(native_file(era))
    assert detect_format(folder) is Format.MINIMIND_FOLDER
    assert (checkpoint.config, checkpoint.origin) == (native.config, native.origin)
    assert checkpoint.eos_token_ids == ({2} if era.startswith(("v2-moe", "v3")) or era == "v2" else frozenset())
    expect_same_weights(checkpoint, native)


@pytest.mark.parametrize("config", ["config.json", "config.transformers4.json"])
def test_what_minimind_s_converter_wrote_is_read(config: str, tmp_path: Path) -> None:
    shutil.copyfile(EXPORTS / "v3-minimind" / config, tmp_path / "config.json")
    (tmp_path / "pytorch_model.bin").symlink_to(EXPORTS / "v3-minimind" / "pytorch_model.bin")
    checkpoint, native = read(tmp_path), minimind.read(native_file("v3"))
    assert checkpoint.config == native.config
    expect_same_weights(checkpoint, native)


def test_safetensors_are_read_as_transformers_5_writes_them(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "v2-moe")
    state = torch.load(native_file("v2-moe"), weights_only=True)
    del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors")
    (folder / "pytorch_model.bin").unlink()
    checkpoint, native = read(folder), minimind.read(native_file("v2-moe"))
    assert checkpoint.config == native.config
    expect_same_weights(checkpoint, native)


def test_the_python_file_beside_it_is_not_run(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "v3")
    (folder / "model_minimind.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')")
    assert read(folder).config.qk_norm
    assert not (tmp_path / "proof").exists()


MINIMIND_YARN = RopeConfig(
    theta=1e6,
    kind="yarn",
    factor=16.0,
    original_max_positions=2048,
    beta_fast=32.0,
    beta_slow=1.0,
    attention_factor=1.0,
)


@pytest.mark.parametrize(
    ("changes", "rope"),
    [
        ({"inference_rope_scaling": True}, MINIMIND_YARN),
        ({"inference_rope_scaling": True, "rope_scaling": YARN | {"attention_factor": 1.0}}, MINIMIND_YARN),
        ({"rope_scaling": YARN | {"attention_factor": 0.9}}, replace(MINIMIND_YARN, attention_factor=0.9)),
        ({"rope_theta": 5e5}, RopeConfig(theta=5e5)),
        ({"rope_theta": None}, RopeConfig(theta=1e6)),
        ({"rope_theta": None, "inference_rope_scaling": True}, MINIMIND_YARN),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 2e6}, "rope_theta": None}, RopeConfig(theta=2e6)),
    ],
)
def test_rotary_settings_are_honoured(changes: dict[str, Any], rope: RopeConfig, tmp_path: Path) -> None:
    assert read(make_folder(tmp_path / "m", "v3", **changes)).config.rope == rope


def test_settings_win_over_what_the_generation_would_have(tmp_path: Path) -> None:
    """Four heads of 16 columns have the same tensors as eight of 8, and another meaning."""
    changes = {"num_attention_heads": 4, "num_key_value_heads": 1, "rms_norm_eps": 1e-3, "max_position_embeddings": 99}
    config = read(make_folder(tmp_path / "m", "v2", **changes)).config
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (4, 1, 16)
    assert (config.rms_norm_eps, config.max_positions) == (1e-3, 99)


def test_heads_of_the_settings_say_which_rows_rotate_together(tmp_path: Path) -> None:
    name, other = "model.layers.0.self_attn.q_proj.weight", {"n_heads": 4, "n_kv_heads": 2}
    as_made, changed = read(make_folder(tmp_path / "a", "v1")), read(make_folder(tmp_path / "b", "v1", **other))
    assert changed.config.head_dim == 16
    assert not np.array_equal(changed.weights[name].data, as_made.weights[name].data)


@pytest.mark.parametrize(
    ("changes", "switch"),
    [
        ({"n_shared_experts": 1}, 1),
        ({"n_shared_experts": True}, 1),
    ],
)
def test_shared_experts_are_a_number_or_a_switch(changes: dict[str, Any], switch: int, tmp_path: Path) -> None:
    moe = read(make_folder(tmp_path / "m", "v2-moe", **changes)).config.moe
    assert moe is not None
    assert moe.num_shared_experts == switch


def test_a_single_chosen_expert_keeps_its_weight_in_minimind2_only(tmp_path: Path) -> None:
    one = {"num_experts_per_tok": 1}
    old, new = (read(make_folder(tmp_path / era, era, **one)).config.moe for era in ("v2-moe", "v3-moe"))
    assert old is not None
    assert new is not None
    assert (old.norm_topk_prob, new.norm_topk_prob) == (False, True)


@pytest.mark.parametrize(
    ("era", "changes", "message"),
    [
        ("v2", {"num_hidden_layers": 3}, r"layers\.2\..* is missing"),
        ("v2", {"hidden_size": 128}, r"embed_tokens\.weight has shape \(6400, 64\); the config asks for \(6400, 128\)"),
        ("v1", {"n_layers": 1}, r"layers\.1\..* is left over"),
        ("v1", {"hidden_dim": 128}, r"w1\.weight has shape \(192, 64\); the config asks for \(128, 64\)"),
        ("v1", {"architectures": ["MiniMindLM"]}, "names MiniMindLM, but the tensors are those of MiniMind-v1"),
        ("v2", {"architectures": ["Transformer"]}, "names Transformer, but the tensors are those of MiniMind2"),
        ("v3", {"architectures": ["MiniMindVLM"]}, "architectures is .*MiniMindVLM.*one of MiniMind's"),
        ("v3", {"num_key_value_heads": 3}, "num_key_value_heads is 3; it must be a divisor of num_attention_heads"),
        ("v3", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("v2-moe", {"scoring_func": "sigmoid"}, "scoring_func is 'sigmoid'; only 'softmax'"),
        ("v2-moe", {"use_moe": False}, r"mlp\.gate_proj\.weight is missing"),
        ("v2", {"use_moe": True}, r"mlp\.gate\.weight is missing"),
        ("v2-moe", {"n_shared_experts": 2}, r"shared_experts\.1\..* is missing"),
        ("v2-moe", {"n_shared_experts": False}, r"shared_experts\.0\..* is left over"),
        ("v2-moe", {"n_routed_experts": 3}, r"mlp\.gate\.weight has shape \(4, 64\)"),
        ("v2-moe", {"num_experts_per_tok": 5}, "num_experts_per_tok is 5"),
        ("v3", {"head_dim": 7}, "the head dimension is 7"),
        ("v3", {"inference_rope_scaling": True, "rope_scaling": YARN}, r"rope_scaling\.attention_factor"),
        ("v3", {"tie_word_embeddings": False, "vocab_size": None}, "vocab_size is missing"),
        ("v1", {"eos_token_id": 6400}, "token id 6400, is not in the vocabulary"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(
    era: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        read(make_folder(tmp_path / "m", era, **changes))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "v3")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"there is neither model\.safetensors nor"):
        read(folder)


def test_only_the_model_type_makes_it_minimind_s(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "v3", model_type="qwen3")
    assert detect_format(folder) is Format.HUGGING_FACE
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["MiniMindForCausalLM"]
