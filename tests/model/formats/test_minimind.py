"""MiniMind's native files: the golden ones, and those that are damaged, of another generation, or hold code."""

import json
import os
import random
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.config import ModelConfig, MoeConfig, RopeConfig
from model.errors import ModelError
from model.formats.minimind import read, weight_from_torch
from tests.model.minimind_data import EXPORTS, GOLDEN, needs_minimind

READABLE = [
    "v3/full_sft_64.pth",
    "v3/full_sft_64_resume.pth",
    "v3-moe/full_sft_64_moe.pth",
    "v3-moe/full_sft_64_moe_resume.pth",
    "v3-untied/full_sft_64.pth",
]


def small_state(num_layers: int = 2, num_experts: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of a small random MiniMind-3 as its scripts store them: tied, and yet both matrices."""
    config = ModelConfig(
        architecture="qwen3",
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_layers=num_layers,
        num_heads=6,
        num_kv_heads=2,
        head_dim=4,
        rms_norm_eps=1e-6,
        max_positions=32768,
        qk_norm=True,
        moe=MoeConfig(num_experts, 1, 24, norm_topk_prob=True) if num_experts else None,
    )
    state = {name: torch.randn(shape).half() for name, shape in config.tensor_shapes()}
    return state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()}


def save(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path


@needs_minimind
@pytest.mark.parametrize("file", READABLE)
def test_tensors_are_those_of_the_golden_file(file: str) -> None:
    stored = torch.load(GOLDEN / file, weights_only=True)
    stored = stored.get("model", stored)
    if "untied" not in file:
        del stored["lm_head.weight"]

    checkpoint = read(GOLDEN / file)

    assert checkpoint.weights.keys() == stored.keys()
    for name, tensor in stored.items():
        assert checkpoint.weights[name].encoding == "F16"
        np.testing.assert_array_equal(checkpoint.weights[name].to_float32(), tensor.float().numpy(), err_msg=name)


@needs_minimind
@pytest.mark.parametrize("file", READABLE)
def test_the_config_is_the_one_the_golden_file_was_made_with(file: str) -> None:
    theirs = json.loads((GOLDEN / file).with_name("config.json").read_text())["config"]
    ours = read(GOLDEN / file).config
    assert ours == ModelConfig(
        architecture="qwen3moe" if theirs["use_moe"] else "qwen3",
        vocab_size=theirs["vocab_size"],
        hidden_size=theirs["hidden_size"],
        intermediate_size=theirs["intermediate_size"],
        num_layers=theirs["num_hidden_layers"],
        num_heads=theirs["num_attention_heads"],
        num_kv_heads=theirs["num_key_value_heads"],
        head_dim=theirs["head_dim"],
        rms_norm_eps=theirs["rms_norm_eps"],
        max_positions=theirs["max_position_embeddings"],
        rope=RopeConfig(theta=theirs["rope_theta"]),
        tie_word_embeddings=theirs["tie_word_embeddings"],
        qk_norm=True,
        moe=MoeConfig(
            num_experts=theirs["num_experts"],
            num_experts_per_token=theirs["num_experts_per_tok"],
            intermediate_size=theirs["moe_intermediate_size"],
            norm_topk_prob=theirs["norm_topk_prob"],
        )
        if theirs["use_moe"]
        else None,
    )


# What each generation's own names stand for, one of each kind; the rows of the first two are in another order.
META_NAMES = {
    "layers.1.attention.wq.weight": "model.layers.1.self_attn.q_proj.weight",
    "layers.1.attention.wk.weight": "model.layers.1.self_attn.k_proj.weight",
    "layers.1.attention.wv.weight": "model.layers.1.self_attn.v_proj.weight",
    "layers.1.attention.wo.weight": "model.layers.1.self_attn.o_proj.weight",
    "layers.1.attention_norm.weight": "model.layers.1.input_layernorm.weight",
    "layers.1.ffn_norm.weight": "model.layers.1.post_attention_layernorm.weight",
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
}
META_MLPS = {
    "layers.1.feed_forward.w1.weight": "model.layers.1.mlp.gate_proj.weight",
    "layers.1.feed_forward.w2.weight": "model.layers.1.mlp.down_proj.weight",
    "layers.1.feed_forward.w3.weight": "model.layers.1.mlp.up_proj.weight",
}
META_EXPERTS = {
    "layers.1.feed_forward.gate.weight": "model.layers.1.mlp.gate.weight",
    "layers.1.feed_forward.experts.2.w1.weight": "model.layers.1.mlp.experts.2.gate_proj.weight",
    "layers.1.feed_forward.experts.3.w2.weight": "model.layers.1.mlp.experts.3.down_proj.weight",
    "layers.1.feed_forward.shared_experts.w3.weight": "model.layers.1.mlp.shared_experts.0.up_proj.weight",
}
OLD = {
    "v1/full_sft_64.pth": "MiniMind-v1",
    "v1-moe/full_sft_64_moe.pth": "MiniMind-v1",
    "v2-early/full_sft_64.pth": "MiniMind2 of early 2025",
    "v2-early-moe/full_sft_64_moe.pth": "MiniMind2 of early 2025",
}
LATER = {"v2/full_sft_64.pth": "MiniMind2", "v2-moe/full_sft_64_moe.pth": "MiniMind2"}


def rows_of_halves(values: torch.Tensor, head_dim: int) -> torch.Tensor:
    order = [*range(0, head_dim, 2), *range(1, head_dim, 2)]
    return values.unflatten(0, (-1, head_dim))[:, order].flatten(0, 1)


@needs_minimind
@pytest.mark.parametrize("file", OLD)
def test_tensors_of_the_first_generations_get_canonical_names(file: str) -> None:
    stored = torch.load(GOLDEN / file, weights_only=True)
    stored = {name.removeprefix("_orig_mod."): tensor for name, tensor in stored.items()}

    checkpoint = read(GOLDEN / file)

    assert len(checkpoint.weights) == len(stored) - 1  # tied
    for name, canonical in (META_NAMES | (META_EXPERTS if "moe" in file else META_MLPS)).items():
        expected = stored[name]
        if "wq" in name or "wk" in name:
            expected = rows_of_halves(expected, checkpoint.config.head_dim)
        np.testing.assert_array_equal(checkpoint.weights[canonical].to_float32(), expected.numpy(), err_msg=name)


@needs_minimind
@pytest.mark.parametrize("file", LATER)
def test_tensors_of_minimind2_are_those_of_its_file(file: str) -> None:
    stored = torch.load(GOLDEN / file, weights_only=True)
    weights = read(GOLDEN / file).weights
    assert weights.keys() == stored.keys() - {"lm_head.weight"}
    for name, tensor in weights.items():
        np.testing.assert_array_equal(tensor.to_float32(), stored[name].float().numpy(), err_msg=name)


@needs_minimind
@pytest.mark.parametrize(("file", "origin"), (OLD | LATER).items())
def test_the_config_of_an_earlier_generation_is_its_own_code_s(file: str, origin: str) -> None:
    theirs = json.loads((GOLDEN / file).with_name("config.json").read_text())["config"]
    checkpoint = read(GOLDEN / file)
    config, moe = checkpoint.config, checkpoint.config.moe

    def said(name: str, old_name: str) -> Any:
        return theirs.get(name, theirs.get(old_name))

    assert checkpoint.origin == origin
    assert config.architecture == ("minimind-moe" if theirs["use_moe"] else "llama")
    assert config.num_layers == said("num_hidden_layers", "n_layers")
    assert config.num_heads == said("num_attention_heads", "n_heads")
    assert config.num_kv_heads == said("num_key_value_heads", "n_kv_heads")
    assert config.hidden_size == said("hidden_size", "dim")
    assert config.head_dim == config.hidden_size // config.num_heads
    assert config.intermediate_size == 192
    assert config.rms_norm_eps == said("rms_norm_eps", "norm_eps")
    assert config.max_positions == said("max_position_embeddings", "max_seq_len")
    assert config.rope == RopeConfig(theta=theirs.get("rope_theta", 1e4))
    assert config.tie_word_embeddings
    assert not config.qk_norm
    assert (moe is not None) == theirs["use_moe"]
    if moe is not None:
        assert (moe.num_experts, moe.num_experts_per_token) == (
            theirs["n_routed_experts"],
            theirs["num_experts_per_tok"],
        )
        assert (moe.num_shared_experts, moe.intermediate_size) == (int(theirs["n_shared_experts"]), 192)
        assert moe.norm_topk_prob == theirs["norm_topk_prob"]


@needs_minimind
@pytest.mark.parametrize("prefix", ["", "module."])
def test_buffers_of_early_files_are_dropped(prefix: str, tmp_path: Path) -> None:
    """Complex numbers among them, which no weight has."""
    state = torch.load(GOLDEN / "v1" / "full_sft_64.pth", weights_only=True)
    buffers = {
        f"{prefix}layers.0.attention.mask": torch.full((1, 1, 512, 512), -torch.inf),
        f"{prefix}pos_cis": torch.ones(512, 2, dtype=torch.complex64),
        f"{prefix}freqs_cis": torch.ones(512, 2, dtype=torch.complex64),
    }
    names = read(GOLDEN / "v1" / "full_sft_64.pth").weights.keys()
    assert read(save(tmp_path / "m.pth", state | buffers)).weights.keys() == names


def early_state(keys: int = 4, num_experts: int = 0) -> dict[str, torch.Tensor]:
    """Of a small first-generation model of one layer, 16 wide."""
    shapes = {
        "tok_embeddings": (32, 16),
        "layers.0.attention.wq": (16, 16),
        "layers.0.attention.wk": (keys, 16),
        "layers.0.attention.wv": (keys, 16),
        "layers.0.attention.wo": (16, 16),
        "layers.0.attention_norm": (16,),
        "layers.0.ffn_norm": (16,),
        "norm": (16,),
        "output": (32, 16),
    }
    mlps = [f"experts.{expert}." for expert in range(num_experts)] or [""]
    for mlp in mlps:
        for matrix, shape in (("w1", (24, 16)), ("w2", (16, 24)), ("w3", (24, 16))):
            shapes[f"layers.0.feed_forward.{mlp}{matrix}"] = shape
    if num_experts:
        shapes["layers.0.feed_forward.gate"] = (num_experts, 16)
    return {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (early_state(keys=8), "the head dimension is 1; rotary"),  # v1: 16 heads of 16 columns
        (early_state(keys=5), r"attention\.wk\.weight has shape \(5, 16\); MiniMind's has 1/2 or 1/4"),
        (early_state(num_experts=1), "has 1 expert; MiniMind2 of early 2025 chooses 2"),
        (
            early_state() | {"layers.0.attention.wq.weight": torch.ones(12, 16)},
            r"wq\.weight has 12 rows, no multiple of 8",
        ),
        (early_state() | {"layers.0.attention.wo.bias": torch.ones(16)}, r"attention\.wo\.bias is left over"),
        (early_state() | {"layers.0.feed_forward.w4.weight": torch.ones(16)}, r"feed_forward\.w4\.weight is left over"),
        (early_state() | {"model.norm.weight": torch.ones(16)}, r"model\.norm\.weight is also stored as norm\.weight"),
        (early_state() | {"layers.0.attention.wv.weight": torch.ones(3, 16)}, r"wv\.weight has shape \(3, 16\)"),
    ],
)
def test_what_is_wrong_with_an_early_file_is_said_in_its_own_names(state: Any, message: str, tmp_path: Path) -> None:
    assert read(save(tmp_path / "sound.pth", early_state())).config.head_dim == 2
    with pytest.raises(ModelError, match=rf"m\.pth: .*{message}"):
        read(save(tmp_path / "m.pth", state))


@needs_minimind
def test_an_adapter_is_refused_as_such() -> None:
    with pytest.raises(ModelError, match=r"lora_x_64\.pth: this is a LoRA adapter"):
        read(GOLDEN / "v3-lora" / "lora_x_64.pth")


@needs_minimind
def test_values_stay_in_the_file() -> None:
    """A copy would be memory of this process; the map shows the file's name."""
    checkpoint = read(GOLDEN / READABLE[0])
    address = checkpoint.weights["model.norm.weight"].data.ctypes.data
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not show its memory maps")
    ranges = [line.split() for line in maps.read_text().splitlines()]
    owners = [line[-1] for line in ranges if int(line[0].split("-")[0], 16) <= address < int(line[0].split("-")[1], 16)]
    assert [Path(owner).name for owner in owners] == ["full_sft_64.pth"]


@pytest.mark.parametrize("num_experts", [0, 3])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod."])
def test_prefixes_of_training_are_stripped(prefix: str, num_experts: int, tmp_path: Path) -> None:
    state = small_state(num_experts=num_experts)
    save(tmp_path / "m.pth", {prefix + name: tensor for name, tensor in state.items()})
    checkpoint = read(tmp_path / "m.pth")
    assert checkpoint.weights.keys() == state.keys() - {"lm_head.weight"}
    assert checkpoint.config.num_heads == 6
    assert (checkpoint.config.moe.num_experts if checkpoint.config.moe else 0) == num_experts


@pytest.mark.parametrize(("dtype", "encoding"), [(torch.float32, "F32"), (torch.bfloat16, "BF16")])
def test_other_floating_types_are_read(dtype: torch.dtype, encoding: str, tmp_path: Path) -> None:
    state = {name: tensor.to(dtype) for name, tensor in small_state().items()}
    tensor = read(save(tmp_path / "m.pth", state)).weights["model.embed_tokens.weight"]
    assert tensor.encoding == encoding
    np.testing.assert_array_equal(tensor.to_float32(), state["model.embed_tokens.weight"].float().numpy())


def test_one_matrix_that_differs_unties_the_model(tmp_path: Path) -> None:
    state = small_state()
    state["lm_head.weight"][3, 5] += 1
    checkpoint = read(save(tmp_path / "m.pth", state))
    assert not checkpoint.config.tie_word_embeddings
    assert "lm_head.weight" in checkpoint.weights


def test_layers_are_counted_beyond_nine(tmp_path: Path) -> None:
    assert read(save(tmp_path / "m.pth", small_state(num_layers=11))).config.num_layers == 11


NORM = "model.layers.0.input_layernorm.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({NORM: torch.ones(16, dtype=torch.int8)}, rf"{NORM} is of torch\.int8; only F32, F16, BF16"),
        ({NORM: torch.ones(16, dtype=torch.float64)}, rf"{NORM} is of torch\.float64"),
        ({NORM: torch.ones(16).to(torch.float8_e4m3fn)}, rf"{NORM} is of torch\.float8"),
        ({NORM: torch.ones(16, 1).expand(16, 16)}, f"{NORM} is not stored as rows"),
        ({NORM: torch.ones(16).to_sparse()}, f"{NORM} is not stored as rows"),
        ({NORM: torch.ones(16, device="meta")}, f"{NORM} is not stored as rows"),
        ({NORM: torch.tensor(1.0)}, f"{NORM} is not stored as rows"),
        ({NORM: torch.ones(17)}, rf"{NORM}.*\(17,\).*\(16,\)"),
        ({NORM: None}, f"{NORM}.*missing"),
        ({QUERY: None}, "this is no MiniMind|q_proj.weight is missing"),
        ({QUERY: torch.ones(23, 16)}, f"{QUERY} has 23 rows, no multiple of 4"),
        ({"model.layers.0.self_attn.q_norm.weight": torch.ones(1)}, "the head dimension is 1"),
        ({QUERY: torch.ones(20, 16)}, "5 query heads are no multiple of 2 key-value heads"),
        ({"model.embed_tokens.weight": torch.ones(16)}, r"embed_tokens\.weight has shape \(16,\)"),
        ({"model.embed_tokens.weight": torch.ones(0, 16)}, r"embed_tokens\.weight is empty"),
        ({"model.layers.0.self_attn.mystery": torch.ones(4)}, "mystery.*left over"),
        ({"model.layers.1000000000.input_layernorm.weight": torch.ones(16)}, r"layers\.2\..*missing"),
        ({"model.layers.0.mlp.gate_proj.weight": None}, r"mlp\.gate_proj\.weight is missing"),
        ({"_orig_mod.model.norm.weight": torch.ones(16)}, r"model\.norm\.weight is there twice"),
        ({"epoch": 3}, "holds 'epoch', which is no tensor"),
        ({7: torch.ones(4)}, "holds 7, which is no tensor"),
    ],
)
def test_what_is_wrong_with_a_tensor_is_said_by_name(changes: dict[Any, Any], message: str, tmp_path: Path) -> None:
    state = small_state() | changes
    path = save(tmp_path / "m.pth", {name: tensor for name, tensor in state.items() if tensor is not None})
    with pytest.raises(ModelError, match=rf"m\.pth: .*({message})"):
        read(path)


@pytest.mark.parametrize(
    ("state", "message"), [([1, 2], "holds a list"), ({}, "no MiniMind"), ({"x": torch.ones(1)}, "no MiniMind")]
)
def test_what_is_no_model_is_refused(state: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"m\.pth: .*{message}"):
        read(save(tmp_path / "m.pth", state))


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("nested", [False, True])
def test_code_in_a_file_is_refused_and_not_run(nested: bool, tmp_path: Path) -> None:
    evil = Evil(tmp_path / "proof")
    state = small_state() | {"extra": evil} if nested else evil
    with pytest.raises(ModelError, match=r"m\.pth: holds Python objects .*mkdir") as refusal:
        read(save(tmp_path / "m.pth", state))
    assert not (tmp_path / "proof").exists()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_cut_short_is_refused(share: float, tmp_path: Path) -> None:
    path = save(tmp_path / "m.pth", small_state())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=r"m\.pth: is (damaged or cut short|no zip)"):
        read(path)


def test_missing_files_folders_and_other_formats_are_refused(tmp_path: Path) -> None:
    legacy = tmp_path / "legacy.pth"
    torch.save(small_state(), legacy, _use_new_zipfile_serialization=False)
    for path in (tmp_path / "nowhere.pth", tmp_path, legacy):
        with pytest.raises(ModelError, match=rf"{path.name}: is (damaged or cut short|no zip file)"):
            read(path)


def test_torchs_advice_to_load_a_file_as_a_program_is_not_passed_on(tmp_path: Path) -> None:
    path = save(tmp_path / "m.pth", small_state())
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, b"\x80\x02i" + content if name.endswith("data.pkl") else content)
    with pytest.raises(ModelError, match=r"or is damaged \(Unsupported operand 105\)\.$"):
        read(path)


def test_a_zip_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pth", "w") as archive:
        archive.writestr("readme.txt", "no tensors here")
    with pytest.raises(ModelError, match=r"m\.pth: is damaged"):
        read(tmp_path / "m.pth")


def test_damage_of_any_kind_ends_in_a_refusal_or_in_a_sound_model(tmp_path: Path) -> None:
    """Random bytes of the pickle changed, the archive otherwise sound, so that the unpickler meets them."""
    original = save(tmp_path / "m.pth", small_state())
    with zipfile.ZipFile(original) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in parts if name.endswith("data.pkl"))
    rng = random.Random(20260821)
    refusals = 0
    for _ in range(150):
        damaged = bytearray(parts[name])
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with zipfile.ZipFile(tmp_path / "damaged.pth", "w") as archive:
            for part, content in parts.items():
                archive.writestr(part, bytes(damaged) if part == name else content)
        with warnings.catch_warnings(action="ignore"):  # torch wonders about pickle protocols
            try:
                read(tmp_path / "damaged.pth")
            except ModelError:
                refusals += 1
    assert refusals > 50


@needs_minimind
def test_the_hugging_face_form_of_a_checkpoint_is_no_native_file() -> None:
    with pytest.raises(ModelError, match=r"model\.safetensors: .*no zip file"):
        read(EXPORTS / "v3" / "model.safetensors")


def test_a_weight_shares_the_memory_of_its_tensor() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    weight = weight_from_torch(Path("m.pth"), "x", tensor)
    tensor[1, 2] = 9.0
    assert weight.shape == (2, 3)
    assert weight.data.shape == (2, 12)
    assert weight.encoding == "F32"
    assert weight.to_float32()[1, 2] == 9.0
