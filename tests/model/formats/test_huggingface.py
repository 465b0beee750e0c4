"""Folders that transformers saved give its own tensors under canonical names; folders that are wrong are refused by
file and tensor."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from model.errors import ModelError
from model.formats.checkpoint import Checkpoint, GenerationDefaults
from model.formats.huggingface import read
from model.formats.minimind import read as read_minimind
from tests.model.hf_models import MODELS, edit_json, save_random_model
from tests.model.minimind_data import EXPORTS, GOLDEN, needs_minimind

INDEX = "model.safetensors.index.json"
EXPERTS = "model.layers.0.mlp.experts"


def canonical_tensors(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """transformers' own parameters, its fused experts taken apart."""
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in model.state_dict().items():
        values = tensor.float().numpy()
        prefix, _, part = name.rpartition(".experts.")
        if part == "gate_up_proj":
            for expert, both in enumerate(values):
                gate, up = np.split(both, 2)
                tensors[f"{prefix}.experts.{expert}.gate_proj.weight"] = gate
                tensors[f"{prefix}.experts.{expert}.up_proj.weight"] = up
        elif part == "down_proj":
            tensors |= {f"{prefix}.experts.{expert}.down_proj.weight": down for expert, down in enumerate(values)}
        else:
            tensors[name] = values
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    return tensors


def expect_tensors(checkpoint: Checkpoint, expected: Mapping[str, np.ndarray]) -> None:
    assert checkpoint.weights.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(checkpoint.weights[name].to_float32(), values, err_msg=name)


def values_of(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {name: tensor.to_float32() for name, tensor in checkpoint.weights.items()}


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_random_model("llama", tmp_path / "llama").folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = save_random_model("llama", tmp_path / "sharded", max_shard_size="200KB").folder
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def edit_tensors(path: Path, changes: Mapping[str, torch.Tensor | None]) -> None:
    """Changes tensors of a file in place; None removes one."""
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()} | dict(changes)
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def shard_of(folder: Path, name: str) -> Path:
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][name]


@pytest.mark.parametrize("name", MODELS)
def test_tensors_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    saved = save_random_model(name, tmp_path)
    checkpoint = read(saved.folder)
    expect_tensors(checkpoint, canonical_tensors(saved.model))
    assert checkpoint.path == tmp_path
    assert checkpoint.config.tie_word_embeddings == saved.model.config.tie_word_embeddings
    assert checkpoint.num_parameters == saved.model.num_parameters()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_it_is(dtype: torch.dtype, tmp_path: Path) -> None:
    model = save_random_model("qwen2", tmp_path).model.to(dtype)
    model.save_pretrained(tmp_path)
    expect_tensors(read(tmp_path), canonical_tensors(model))


@pytest.mark.parametrize("name", ["llama", "qwen3moe-mixed", "qwen2-tied"])
def test_shards_give_the_same_as_one_file(name: str, tmp_path: Path) -> None:
    saved = save_random_model(name, tmp_path, max_shard_size="100KB")
    assert (tmp_path / INDEX).exists()
    expect_tensors(read(tmp_path), canonical_tensors(saved.model))


@pytest.mark.parametrize("name", ["qwen3moe", "qwen3moe-mixed"])
def test_fused_experts_are_views_of_the_same_values(name: str, tmp_path: Path) -> None:
    saved = save_random_model(name, tmp_path, save_original_format=False)
    assert any(stored.endswith("experts.gate_up_proj") for stored in load_file(tmp_path / "model.safetensors"))
    checkpoint = read(tmp_path)
    expect_tensors(checkpoint, canonical_tensors(saved.model))
    assert not any(tensor.data.flags.owndata for tensor in checkpoint.weights.values())


def test_end_tokens_and_recommended_sampling_come_with_it(llama: Path) -> None:
    edit_json(llama / "config.json", eos_token_id=[3, 4])
    edit_json(llama / "generation_config.json", eos_token_id=5, do_sample=True, temperature=0.7)
    checkpoint = read(llama)
    assert checkpoint.eos_token_ids == {3, 4, 5}
    assert checkpoint.generation == GenerationDefaults(temperature=0.7)


@pytest.mark.parametrize("changes", [{"eos_token_id": [3, 320]}, {"eos_token_id": -1}])
def test_an_end_token_that_is_not_in_the_vocabulary_is_refused(changes: dict[str, object], llama: Path) -> None:
    edit_json(llama / "generation_config.json", **changes)
    with pytest.raises(ModelError, match=r"llama: the end of text, token id (320|-1), is not in .* 320 tokens"):
        read(llama)


def test_rotary_numbers_beyond_float32_are_refused(llama: Path) -> None:
    edit_json(llama / "config.json", rope_parameters={"rope_type": "linear", "factor": 1e-320, "rope_theta": 1e4})
    with pytest.raises(ModelError, match=r"llama: the rotary frequencies .* are not finite in float32"):
        read(llama)


def test_an_equal_output_layer_is_dropped_where_the_config_ties_it(tmp_path: Path) -> None:
    saved = save_random_model("llama-tied", tmp_path)
    embedding = saved.model.get_input_embeddings().weight.detach().clone()
    edit_tensors(tmp_path / "model.safetensors", {"lm_head.weight": embedding})
    checkpoint = read(tmp_path)
    assert checkpoint.config.tie_word_embeddings
    expect_tensors(checkpoint, canonical_tensors(saved.model))


def test_another_output_layer_stays_though_the_config_ties_it_as_in_transformers(tmp_path: Path) -> None:
    saved = save_random_model("llama-tied", tmp_path)
    other = torch.randn_like(saved.model.get_input_embeddings().weight)
    edit_tensors(tmp_path / "model.safetensors", {"lm_head.weight": other})

    checkpoint = read(tmp_path)

    assert not checkpoint.config.tie_word_embeddings
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).lm_head.weight.detach().numpy()
    np.testing.assert_array_equal(checkpoint.weights["lm_head.weight"].to_float32(), theirs)
    np.testing.assert_array_equal(theirs, other.numpy())


def test_an_output_layer_alone_stands_for_a_tied_embedding(tmp_path: Path) -> None:
    saved = save_random_model("llama-tied", tmp_path)
    embedding = saved.model.get_input_embeddings().weight.detach().clone()
    changes = {"lm_head.weight": embedding, "model.embed_tokens.weight": None}
    edit_tensors(tmp_path / "model.safetensors", changes)
    expect_tensors(read(tmp_path), canonical_tensors(saved.model))


def test_buffers_of_old_versions_are_dropped(llama: Path) -> None:
    buffers = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "model.rotary_emb.inv_freq": torch.ones(8).double(),
        "model.layers.1.self_attn.rotary_emb.cos_cached": torch.ones(1, 1, 512, 16),
    }
    before = values_of(read(llama))
    edit_tensors(llama / "model.safetensors", buffers)
    expect_tensors(read(llama), before)


def test_buffers_of_old_versions_are_dropped_from_shards(sharded: Path) -> None:
    before, buffer = values_of(read(sharded)), "model.layers.0.self_attn.rotary_emb.inv_freq"
    shard = shard_of(sharded, "model.norm.weight")
    edit_tensors(shard, {buffer: torch.ones(8).double()})
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    edit_json(sharded / INDEX, weight_map=weight_map | {buffer: shard.name})
    expect_tensors(read(sharded), before)


def test_a_tensor_left_over_is_refused_by_name(llama: Path) -> None:
    edit_tensors(llama / "model.safetensors", {"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)})
    with pytest.raises(ModelError, match=r"model\.safetensors: .*model\.layers\.0\.self_attn\.q_proj\.bias.*left over"):
        read(llama)


def test_a_missing_tensor_is_refused_by_name(llama: Path) -> None:
    edit_tensors(llama / "model.safetensors", {"model.layers.2.mlp.up_proj.weight": None})
    with pytest.raises(ModelError, match=r"model\.layers\.2\.mlp\.up_proj\.weight.*missing"):
        read(llama)


def test_an_untied_model_needs_its_output_layer(tmp_path: Path) -> None:
    save_random_model("llama-tied", tmp_path)
    edit_json(tmp_path / "config.json", tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"lm_head\.weight.*missing"):
        read(tmp_path)


def test_a_tensor_of_another_shape_is_refused_with_both(llama: Path) -> None:
    edit_tensors(llama / "model.safetensors", {"model.norm.weight": torch.ones(65)})
    with pytest.raises(ModelError, match=r"model\.norm\.weight.*\(65,\).*\(64,\)"):
        read(llama)


@pytest.mark.parametrize("shape", [(5, 95, 64), (4, 96, 64), (5, 64, 96), (480, 64)])
def test_fused_experts_of_another_shape_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    save_random_model("qwen3moe", tmp_path, save_original_format=False)
    edit_tensors(tmp_path / "model.safetensors", {f"{EXPERTS}.gate_up_proj": torch.ones(shape)})
    with pytest.raises(ModelError, match=r"mlp\.experts\.gate_up_proj has shape .*asks for \(5, 96, 64\)"):
        read(tmp_path)


def test_experts_stored_both_fused_and_split_are_refused(tmp_path: Path) -> None:
    save_random_model("qwen3moe", tmp_path, save_original_format=False)
    edit_tensors(tmp_path / "model.safetensors", {f"{EXPERTS}.3.down_proj.weight": torch.ones(64, 48)})
    with pytest.raises(ModelError, match=r"experts\.down_proj\[3.* is also stored as .*experts\.3\.down_proj\.weight"):
        read(tmp_path)


def test_fused_experts_of_a_layer_without_experts_are_refused(tmp_path: Path) -> None:
    save_random_model("qwen3moe-mixed", tmp_path, save_original_format=False)
    edit_tensors(tmp_path / "model.safetensors", {f"{EXPERTS}.down_proj": torch.ones(5, 64, 48)})
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.experts\.down_proj\[.*left over"):
        read(tmp_path)


def test_a_shard_that_is_not_there_is_refused_by_file(sharded: Path) -> None:
    shard = shard_of(sharded, "model.norm.weight")
    shard.unlink()
    with pytest.raises(ModelError, match=shard.name):
        read(sharded)


def test_a_shard_cut_short_is_refused_by_file(sharded: Path) -> None:
    shard = shard_of(sharded, "model.norm.weight")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ModelError, match=rf"{shard.name}: .*cut short"):
        read(sharded)


def test_a_tensor_that_is_not_in_its_shard_is_refused_by_both(sharded: Path) -> None:
    shard = shard_of(sharded, "model.norm.weight")
    edit_tensors(shard, {"model.norm.weight": None})
    with pytest.raises(ModelError, match=rf"{shard.name}: tensor model\.norm\.weight is not in this shard"):
        read(sharded)


def test_an_index_that_names_the_wrong_shard_is_refused(sharded: Path) -> None:
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    wrong = next(file for file in weight_map.values() if file != weight_map["model.norm.weight"])
    edit_json(sharded / INDEX, weight_map=weight_map | {"model.norm.weight": wrong})
    with pytest.raises(ModelError, match=rf"{wrong}: tensor model\.norm\.weight is not in this shard"):
        read(sharded)


def test_a_tensor_in_two_shards_is_refused_by_both(sharded: Path) -> None:
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    name, tensor = next(iter(load_file(first).items()))
    edit_tensors(second, {name: tensor.clone()})
    with pytest.raises(ModelError, match=rf"{second.name}: tensor {name} is also stored as {name} in {first.name}"):
        read(sharded)


@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/x.safetensors", "sub/x.safetensors", "..\\x.safetensors", "C:x.safetensors", "x.bin"]
)
def test_an_index_that_leads_out_of_the_folder_is_refused(file: str, sharded: Path) -> None:
    outside = sharded.parent / "x.safetensors"
    shutil.copy(next(sharded.glob("*.safetensors")), outside)
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    edit_json(sharded / INDEX, weight_map=weight_map | {"model.norm.weight": file})
    with pytest.raises(ModelError, match=r"index\.json: weight_map\.model\.norm\.weight is .*in the same folder"):
        read(sharded)


@pytest.mark.parametrize("weight_map", [None, {}, [], {"model.norm.weight": 1}])
def test_a_malformed_index_is_refused(weight_map: object, sharded: Path) -> None:
    edit_json(sharded / INDEX, weight_map=weight_map)
    with pytest.raises(ModelError, match=r"index\.json: weight_map"):
        read(sharded)


def test_weights_in_a_pickle_are_refused(llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pytorch_model.bin"):
        read(llama)


def test_a_folder_without_weights_is_refused(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        read(llama)


def test_a_folder_without_config_is_refused(llama: Path) -> None:
    (llama / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json"):
        read(llama)


def test_values_that_are_not_numbers_are_refused_when_used(llama: Path) -> None:
    edit_tensors(llama / "model.safetensors", {"model.norm.weight": torch.full((64,), torch.nan)})
    tensor = read(llama).weights["model.norm.weight"]
    with pytest.raises(ModelError, match=r"model\.safetensors: .*model\.norm\.weight.*not finite"):
        tensor.to_float32()


@needs_minimind
@pytest.mark.parametrize(
    ("export", "original"),
    [
        ("v3", "v3/full_sft_64.pth"),
        ("v3-moe-split", "v3-moe/full_sft_64_moe.pth"),
        ("v3-moe-fused", "v3-moe/full_sft_64_moe.pth"),
    ],
)
@pytest.mark.parametrize("config", ["config.json", "config.transformers4.json"])
def test_exports_of_minimind_equal_the_checkpoint_they_were_made_from(
    export: str, original: str, config: str, tmp_path: Path
) -> None:
    if not (EXPORTS / export / config).exists():
        pytest.skip(f"{export} has no {config}")
    shutil.copy(EXPORTS / export / config, tmp_path / "config.json")
    (tmp_path / "model.safetensors").symlink_to(EXPORTS / export / "model.safetensors")
    checkpoint, native = read(tmp_path), read_minimind(GOLDEN / original)
    assert checkpoint.config == native.config
    expect_tensors(checkpoint, values_of(native))


@needs_minimind
def test_minimind2_exported_as_llama_is_read() -> None:
    stored = torch.load(GOLDEN / "v2" / "full_sft_64.pth", weights_only=True)
    expected = {name: tensor.float().numpy() for name, tensor in stored.items() if name != "lm_head.weight"}
    checkpoint = read(EXPORTS / "v2")
    expect_tensors(checkpoint, expected)
    assert checkpoint.config.rope.theta == 1e6
    assert checkpoint.config.rms_norm_eps == 1e-5
