"""Every tensor of a checkpoint reaches its place, in the right encoding and with the right bytes. The library is played
by one that remembers what it was given, with llama.cpp's own quantisation."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf as ggml
import numpy as np
import pytest

from model.config import ModelConfig
from model.errors import ModelError
from model.formats import gguf
from model.formats.checkpoint import Checkpoint, WeightTensor
from model.native import weights as filling
from model.native.library import NativeError, NativeUnavailable
from model.native.options import KEPT, NativeOptions
from model.native.structs import Encoding, Place, Role
from model.native.weights import NativeModel, encode, is_finite, place_of, squared_error
from tests.model.gguf_files import small_config, write_gguf
from tests.model.random_checkpoint import LLAMA, MINIMIND_MOE, QWEN2, QWEN3, QWEN3_MOE, random_checkpoint

GGML_NAMES = {encoding: name for name, encoding in KEPT.items()}


@dataclass
class FakeLibrary:
    config: Any = None
    matrices: dict[Place, tuple[Encoding, np.ndarray]] = field(default_factory=dict)
    biases: dict[Place, np.ndarray] = field(default_factory=dict)
    freed: list[int] = field(default_factory=list)
    refuses: bool = False

    def new_model(self, config: Any, instruction_set: str | None) -> int:
        if self.refuses:
            raise NativeError("head_dim 12 is no multiple of 8")
        self.config = config
        return 77

    def free_model(self, model: int) -> None:
        self.freed.append(model)

    def set_matrix(self, model: int, place: Place, encoding: Encoding, matrix: np.ndarray) -> None:
        assert model == 77
        assert matrix.flags.c_contiguous
        assert place not in self.matrices
        self.matrices[place] = encoding, matrix.copy()

    def set_bias(self, model: int, place: Place, bias: np.ndarray) -> None:
        self.biases[place] = bias

    def quantize(self, encoding: Encoding, values: np.ndarray, out: np.ndarray) -> None:
        kind = ggml.GGMLQuantizationType[GGML_NAMES[encoding]]
        out[...] = ggml.quants.quantize(values, kind).view(np.uint8)

    def model_bytes(self, model: int) -> int:
        return 123


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of this project; the writer of GGUF files has its own."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("model.")]


def fill(checkpoint: Checkpoint, **options: Any) -> tuple[FakeLibrary, NativeModel]:
    library = FakeLibrary()
    return library, NativeModel(library, checkpoint, NativeOptions(**options))  # type: ignore[arg-type]


def values_of(encoding: Encoding, rows: np.ndarray) -> np.ndarray:
    return ggml.quants.dequantize(rows, ggml.GGMLQuantizationType[GGML_NAMES[encoding]])


@pytest.mark.parametrize(
    ("name", "place", "is_bias"),
    [
        ("model.embed_tokens.weight", Place(Role.EMBEDDING), False),
        ("model.norm.weight", Place(Role.FINAL_NORM), False),
        ("lm_head.weight", Place(Role.LM_HEAD), False),
        ("model.layers.12.self_attn.q_proj.bias", Place(Role.Q, 12), True),
        ("model.layers.2.mlp.gate.weight", Place(Role.ROUTER, 2), False),
        ("model.layers.2.mlp.gate_proj.weight", Place(Role.GATE, 2), False),
        ("model.layers.3.mlp.experts.14.down_proj.weight", Place(Role.DOWN, 3, 14), False),
        ("model.layers.3.mlp.experts.14.down_proj.bias", Place(Role.DOWN, 3, 14), True),
        ("model.layers.3.mlp.shared_experts.1.up_proj.weight", Place(Role.UP, 3, 5), False),  # behind four others
    ],
)
def test_a_name_says_where_a_tensor_belongs(name: str, place: Place, is_bias: bool) -> None:
    assert place_of(name, MINIMIND_MOE) == (place, is_bias)


@pytest.mark.parametrize(
    "config", [LLAMA, QWEN2, QWEN3, QWEN3_MOE, MINIMIND_MOE], ids=lambda config: config.architecture
)
def test_every_tensor_has_a_place_of_its_own(config: ModelConfig) -> None:
    config = replace(config, mlp_bias=True, output_bias=True)
    checkpoint = random_checkpoint(config, 1)
    library, model = fill(checkpoint, dtype="float32")
    assert len(library.matrices) + len(library.biases) == len(checkpoint.weights)
    for name, tensor in checkpoint.weights.items():
        place, is_bias = place_of(name, config)
        values = library.biases[place] if is_bias else values_of(*library.matrices[place])
        np.testing.assert_array_equal(values.reshape(tensor.shape), tensor.to_float32())
    assert (model.dtype, model.num_bytes) == ("float32", 123)


def test_the_config_arrives_whole() -> None:
    library, _ = fill(random_checkpoint(QWEN3_MOE, 1))
    moe = QWEN3_MOE.moe
    assert moe is not None
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads"):
        assert getattr(library.config, name) == getattr(QWEN3_MOE, name)
    assert library.config.rms_norm_eps == pytest.approx(QWEN3_MOE.rms_norm_eps)
    assert (library.config.num_experts, library.config.num_experts_per_token) == (6, 2)
    assert (library.config.expert_intermediate_size, library.config.norm_topk_prob) == (32, 1)
    assert (library.config.qk_norm, library.config.rope_scale) == (1, 1.0)
    assert (
        library.config.num_shared_experts,
        fill(random_checkpoint(MINIMIND_MOE, 1))[0].config.num_shared_experts,
    ) == (
        0,
        2,
    )
    assert fill(random_checkpoint(LLAMA, 1))[0].config.num_experts == 0


@pytest.mark.parametrize("encoding", ["Q4_0", "Q4_1", "Q8_0", "BF16"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3moe"])
def test_what_the_file_has_is_handed_over_byte_for_byte(architecture: str, encoding: str, tmp_path: Path) -> None:
    checkpoint = gguf.read(write_gguf(tmp_path / "model.gguf", small_config(architecture), encoding=encoding))
    library, model = fill(checkpoint)
    for name, tensor in checkpoint.weights.items():
        kept, rows = library.matrices[place_of(name, checkpoint.config)[0]]
        assert kept is KEPT[tensor.encoding]
        assert np.array_equal(rows.ravel(), tensor.data.ravel())
    assert model.dtype == {"Q8_0": "int8", "BF16": "bfloat16"}.get(encoding, encoding.lower())


@pytest.mark.parametrize("encoding", ["F32", "F16"])
def test_other_floats_become_bfloat16(encoding: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="model")
    checkpoint = gguf.read(write_gguf(tmp_path / "model.gguf", small_config(), encoding=encoding))
    library, model = fill(checkpoint)
    kept, rows = library.matrices[Place(Role.O, 1)]
    assert (kept, model.dtype) == (Encoding.BF16, "bfloat16")
    values = checkpoint.weights["model.layers.1.self_attn.o_proj.weight"].to_float32()
    np.testing.assert_allclose(values_of(kept, rows), values, rtol=2**-8)
    assert library.matrices[Place(Role.ATTENTION_NORM, 1)][0] is Encoding.F32
    assert lines(caplog) == []


def test_other_blocks_become_int8_and_a_line_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="model")
    checkpoint = gguf.read(write_gguf(tmp_path / "model.gguf", small_config(), encoding="Q5_0"))
    library, model = fill(checkpoint)
    kept, rows = library.matrices[Place(Role.DOWN, 1)]
    assert (kept, model.dtype) == (Encoding.Q8, "int8")
    values = checkpoint.weights["model.layers.1.mlp.down_proj.weight"].to_float32()
    np.testing.assert_allclose(values_of(kept, rows), values, atol=np.abs(values).max() / 200)
    assert lines(caplog) == [f"{tmp_path / 'model.gguf'}: for the native backend 16 tensors in Q5_0 become int8"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantised_weights_are_spread_out_on_request(
    dtype: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="model")
    checkpoint = gguf.read(write_gguf(tmp_path / "model.gguf", small_config(), encoding="Q4_1"))
    library, model = fill(checkpoint, dtype=dtype)
    values = checkpoint.weights["model.layers.1.mlp.down_proj.weight"].to_float32()
    spread = values_of(*library.matrices[Place(Role.DOWN, 1)])
    np.testing.assert_allclose(spread, values, rtol=0 if dtype == "float32" else 2**-8)
    assert (model.dtype, lines(caplog)) == (dtype, [])


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_float_weights_are_quantised_on_request_and_never_the_router(weights: str) -> None:
    config = replace(QWEN3_MOE, hidden_size=64, intermediate_size=96)
    library, model = fill(random_checkpoint(config, 1), weights=weights)
    kept = {place.role: encoding for place, (encoding, _) in library.matrices.items()}
    assert kept[Role.ROUTER] is Encoding.F32
    assert kept[Role.EMBEDDING] is kept[Role.LM_HEAD] is Encoding.Q8
    assert kept[Role.DOWN] in ((Encoding.Q8,) if weights == "int8" else (Encoding.Q4_0, Encoding.Q4_1))
    assert model.dtype == ("int8" if weights == "int8" else GGML_NAMES[kept[Role.DOWN]].lower())


def test_of_two_encodings_each_tensor_gets_the_nearer() -> None:
    checkpoint = random_checkpoint(QWEN2, 1)
    name = "model.layers.0.mlp.{}_proj.weight"
    steps = np.tile(np.arange(-8, 8, dtype="<f4"), (96, 4))  # what Q4_0 holds exactly
    shifted = np.tile(np.arange(16, dtype="<f4") + 100, (96, 4))  # what Q4_1 does
    tensors = {name.format("gate"): steps, name.format("up"): shifted}
    changed = {name: replace(checkpoint.weights[name], data=values.view(np.uint8)) for name, values in tensors.items()}
    library, _ = fill(replace(checkpoint, weights={**checkpoint.weights, **changed}), weights="int4")
    for role, encoding, values in ((Role.GATE, Encoding.Q4_0, steps), (Role.UP, Encoding.Q4_1, shifted)):
        kept, rows = library.matrices[Place(role)]
        assert kept is encoding
        np.testing.assert_array_equal(values_of(kept, rows), values)


def test_the_error_is_that_of_all_values() -> None:
    tensor = random_checkpoint(QWEN2, 1).weights["model.embed_tokens.weight"]
    rows = encode(FakeLibrary(), tensor, Encoding.Q4_0)  # type: ignore[arg-type]
    differences = values_of(Encoding.Q4_0, rows) - tensor.to_float32()
    assert squared_error(tensor, Encoding.Q4_0, rows) == pytest.approx(np.square(differences).sum(), rel=1e-5)


def test_rows_that_are_not_whole_groups_become_bfloat16_and_a_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="model")
    library, model = fill(random_checkpoint(LLAMA, 1), weights="int8")  # hidden size 48
    assert library.matrices[Place(Role.Q)][0] is Encoding.BF16
    assert library.matrices[Place(Role.O)][0] is Encoding.Q8  # its rows are 96
    assert model.dtype == "bfloat16"
    assert lines(caplog) == ["random-llama: for the native backend 20 tensors in F32 become bfloat16"]


# ── numbers that are none ──


@pytest.mark.parametrize(
    ("encoding", "place"), [("Q8_0", 0), ("Q4_0", 0), ("Q4_1", 0), ("Q4_1", 2), ("BF16", 6), ("F32", 8)]
)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_found_wherever_it_stands(encoding: str, place: int, number: float) -> None:
    values = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    rows = np.ascontiguousarray(ggml.quants.quantize(values, ggml.GGMLQuantizationType[encoding])).view(np.uint8)
    assert is_finite(KEPT[encoding], rows)
    wide = np.float32(number).view(np.uint32)
    bits = {"F32": wide, "BF16": np.uint16(wide >> 16)}.get(encoding, np.float16(number).view(np.uint16))
    block = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}.get(encoding, 0)
    rows[-1, block + place : block + place + bits.itemsize] = np.frombuffer(bits.tobytes(), np.uint8)
    assert not is_finite(KEPT[encoding], rows)


def broken_checkpoint(name: str, value: float) -> Checkpoint:
    checkpoint = random_checkpoint(QWEN2, 1)
    values = checkpoint.weights[name].to_float32()
    values.flat[-1] = value
    tensor: WeightTensor = replace(checkpoint.weights[name], data=values.view(np.uint8))
    return replace(checkpoint, weights={**checkpoint.weights, name: tensor})


@pytest.mark.parametrize("options", [{}, {"dtype": "float32"}, {"weights": "int8"}, {"weights": "int4"}])
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.layers.0.self_attn.k_proj.bias"]
)
def test_a_weight_that_is_no_number_is_named(name: str, options: dict[str, str]) -> None:
    with pytest.raises(ModelError, match=rf"random-qwen2: tensor '{name}' has values that are not finite"):
        fill(broken_checkpoint(name, np.nan), **options)


@pytest.mark.parametrize(("options", "dtype", "value"), [({}, "bfloat16", 3.4e38), ({"weights": "int8"}, "int8", 1e30)])
def test_a_weight_too_large_for_its_encoding_is_named(options: dict[str, str], dtype: str, value: float) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    with (
        np.errstate(over="ignore"),
        pytest.raises(ModelError, match=rf"tensor '{name}' has values that are not finite in {dtype}\."),
    ):
        fill(broken_checkpoint(name, value), **options)


def test_a_broken_scale_in_a_file_is_named(tmp_path: Path) -> None:
    checkpoint = gguf.read(write_gguf(tmp_path / "model.gguf", small_config(), encoding="Q4_1"))
    name = "model.layers.0.mlp.up_proj.weight"
    data = checkpoint.weights[name].data.copy()
    data[5, 20:22] = 0xFF
    broken = {**checkpoint.weights, name: replace(checkpoint.weights[name], data=data)}
    with pytest.raises(ModelError, match=r"model\.gguf: tensor 'blk\.0\.ffn_up\.weight' has .* not finite in q4_1"):
        fill(replace(checkpoint, weights=broken))


# ── the library's memory ──


def test_a_model_that_the_library_cannot_run_is_unavailable() -> None:
    library: Any = FakeLibrary(refuses=True)
    with pytest.raises(NativeUnavailable, match="cannot run this model: head_dim 12 is no multiple of 8"):
        NativeModel(library, random_checkpoint(QWEN2, 1), NativeOptions())


def test_the_weights_go_with_the_model() -> None:
    library, model = fill(random_checkpoint(QWEN2, 1))
    assert library.freed == []
    del model
    assert library.freed == [77]


def test_slabs_are_whole_however_they_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = fill(random_checkpoint(QWEN2, 1), weights="int4")
    monkeypatch.setattr(filling, "_SLAB_VALUES", 5 * 64)
    in_slabs, _ = fill(random_checkpoint(QWEN2, 1), weights="int4")
    for place, (encoding, rows) in whole.matrices.items():
        assert in_slabs.matrices[place][0] is encoding
        assert np.array_equal(in_slabs.matrices[place][1], rows)
