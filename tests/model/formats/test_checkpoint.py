"""Values of a weight in every encoding, and a checkpoint that is checked against its config."""

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from model.config import RopeConfig
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint, WeightTensor
from model.formats.gguf_container import ENCODINGS
from tests.model.gguf_files import encode, random_weights, small_config

PATH = Path("folder/model.file")


def weight(data: np.ndarray, shape: tuple[int, ...], encoding: str) -> WeightTensor:
    return WeightTensor(shape, encoding, data, PATH, "some.weight")


def block(*parts: bytes) -> np.ndarray:
    return np.frombuffer(b"".join(parts), np.uint8)


def test_encodings_mean_what_their_layout_says() -> None:
    """By hand, from the structs in ggml-common.h: a float16 scale, then a minimum or not, then integers."""
    half = struct.pack("<e", 0.5)
    signed = struct.pack("<32b", *range(-16, 16))
    nibbles = bytes(low | (15 - low) << 4 for low in range(16))  # value i in the low half of byte i, i + 16 in the high
    quants_4 = [*range(16), *range(15, -1, -1)]
    expected = {
        "F32": (block(struct.pack("<32f", *range(32))), list(range(32))),
        "F16": (block(struct.pack("<32e", *range(32))), list(range(32))),
        "BF16": (block(*(struct.pack("<f", i)[2:] for i in range(32))), list(range(32))),
        "Q8_0": (block(half, signed), [0.5 * q for q in range(-16, 16)]),
        "Q4_0": (block(half, nibbles), [0.5 * (q - 8) for q in quants_4]),
        "Q4_1": (block(half, struct.pack("<e", -3.0), nibbles), [0.5 * q - 3.0 for q in quants_4]),
    }
    for encoding, (data, values) in expected.items():
        assert weight(data, (32,), encoding).to_float32().tolist() == values, encoding


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("shape", [(256,), (3, 512), (2, 5, 256), (700, 1024)])  # the last in several slabs
def test_values_are_those_of_the_gguf_package(encoding: str, shape: tuple[int, ...]) -> None:
    data = encode(np.random.default_rng(0).standard_normal(shape).astype(np.float32), encoding)
    data.flags.writeable = False
    values = weight(data, shape, encoding).to_float32()
    assert (values.dtype, values.shape) == (np.float32, shape)
    np.testing.assert_array_equal(values, quants.dequantize(data, GGMLQuantizationType[encoding]))
    values[...] = 0  # a copy: the file's bytes stay
    assert data.any()


@pytest.mark.parametrize("encoding", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 699])
def test_a_value_that_is_not_finite_is_refused_by_name(encoding: str, bad: float, row: int) -> None:
    values = np.ones((700, 1024), np.float32)
    values[row, 3] = bad
    with pytest.raises(ModelError, match=r"^folder/model\.file: tensor 'some\.weight' has values that are not finite"):
        weight(encode(values, encoding), values.shape, encoding).to_float32()


@pytest.mark.parametrize("encoding", sorted(set(ENCODINGS) - {"F32", "F16", "BF16"}))
@pytest.mark.parametrize("scale", [b"\x00\x7e", b"\x01\x7d", b"\x00\xfc"], ids=["nan", "signalling nan", "-inf"])
def test_a_scale_that_is_not_finite_is_refused_by_name(encoding: str, scale: bytes) -> None:
    data = encode(np.ones((1, 256), np.float32), encoding).copy()
    place = {"Q2_K": 80, "Q3_K": 108, "Q6_K": 208}.get(encoding, 0)
    data[0, place : place + 2] = list(scale)
    with pytest.raises(ModelError, match="not finite"):
        weight(data, (1, 256), encoding).to_float32()


def test_one_long_row_is_decoded_slab_by_slab() -> None:
    data = np.zeros((1, (1 << 22) // 32 * 34), np.uint8)
    tracemalloc.start()
    values = weight(data, (1, 1 << 22), "Q8_0").to_float32()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes + (2 << 20)


Weights = dict[str, WeightTensor]


@pytest.fixture
def weights() -> Weights:
    values = random_weights(small_config())
    return {name: weight(encode(array, "F32"), array.shape, "F32") for name, array in values.items()}


def test_a_checkpoint_counts_its_parameters(weights: Weights) -> None:
    checkpoint = Checkpoint(PATH, small_config(), weights)
    assert checkpoint.num_parameters == sum(array.size for array in random_weights(small_config()).values())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda weights: weights.pop("model.norm.weight"), r"model\.norm\.weight is missing"),
        (lambda weights: weights.update(extra=weights["model.norm.weight"]), r"some\.weight is left over"),
        (
            lambda weights: weights.update({"model.norm.weight": weights["lm_head.weight"]}),
            r"some\.weight has shape \(96, 64\); the config asks for \(64,\)",
        ),
    ],
)
def test_a_checkpoint_fits_its_config(weights: Weights, change: Callable[[Weights], None], expected: str) -> None:
    change(weights)
    with pytest.raises(ModelError, match=expected):
        Checkpoint(PATH, small_config(), weights)


def test_layers_and_experts_that_are_not_there_cost_nothing(weights: Weights) -> None:
    with pytest.raises(ModelError, match=r"model\.layers\.2\.input_layernorm\.weight is missing"):
        Checkpoint(PATH, small_config(num_layers=10**12), weights)


@pytest.mark.parametrize("token_id", [-1, 96, 10**30])
def test_an_end_of_text_that_is_no_token_is_refused(weights: Weights, token_id: int) -> None:
    assert Checkpoint(PATH, small_config(), weights, eos_token_ids=frozenset({0, 95})).eos_token_ids == {0, 95}
    with pytest.raises(ModelError, match=rf"^folder/model\.file: .* token id {token_id}, is not in .* 96 tokens"):
        Checkpoint(PATH, small_config(), weights, eos_token_ids=frozenset({2, token_id}))


def test_a_rotation_that_float32_cannot_hold_is_refused(weights: Weights) -> None:
    config = small_config(rope=RopeConfig(kind="yarn", factor=4.0, beta_slow=1e308))
    with pytest.raises(ModelError, match=r"^folder/model\.file: the rotary frequencies .* float32\.$"):
        Checkpoint(PATH, config, weights)
