"""Products of activations with packed weights: each instruction set against the scalar twin, the scalar twin against
numpy, and every row the same bits however many come with it."""

from ctypes import c_char_p, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

from model.native.structs import Encoding
from tests.model.native.kernel_library import Floats, floats, guarded, instruction_sets, library, same_bits

PANEL, GROUP = 16, 32
SETS = instruction_sets()
VECTOR_SETS = [name for name in SETS if name != "scalar"]
QUANTISED = (Encoding.Q8, Encoding.Q4_0, Encoding.Q4_1)
FLUSHED = 1e-36  # AVX-512's products of bfloat16 take numbers below 2^-126 for zero
GGML = {
    Encoding.F32: GGMLQuantizationType.F32,
    Encoding.BF16: GGMLQuantizationType.BF16,
    Encoding.Q8: GGMLQuantizationType.Q8_0,
    Encoding.Q4_0: GGMLQuantizationType.Q4_0,
    Encoding.Q4_1: GGMLQuantizationType.Q4_1,
}

pytestmark = pytest.mark.skipif(not SETS, reason="the native library is not built")


@dataclass(frozen=True)
class Weights:
    encoding: Encoding
    rows: int
    columns: int
    data: NDArray[np.uint8]  # [N, bytes of a row]

    @classmethod
    def random(cls, encoding: Encoding, rows: int, columns: int, seed: int = 0) -> "Weights":
        values = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
        data = quants.quantize(values, GGML[encoding])
        return cls(encoding, rows, columns, np.ascontiguousarray(data).view(np.uint8).reshape(rows, -1))

    @property
    def values(self) -> Floats:
        return quants.dequantize(self.data, GGML[self.encoding]).reshape(self.rows, self.columns)

    def row(self, row: int) -> Floats:
        out = np.empty(self.columns, np.float32)
        library().sw_test_row.argtypes = (c_int, c_int32, c_int32, c_void_p, c_int32, c_void_p)
        library().sw_test_row(self.encoding, self.rows, self.columns, self.data.ctypes.data, row, out.ctypes.data)
        return out


def matmul(
    isa: str,
    weights: Weights,
    x: Floats,
    *,
    bias: Floats | None = None,
    row_ids: list[int] | None = None,
    num_prompt_rows: int = 0,
    panels: range | None = None,
    adds_to: Floats | None = None,
) -> Floats:
    """x [M, K] → [M, N], the last `num_prompt_rows` of them as rows of prompts; what lies beside the panels that are
    asked for must stay as it was."""
    function = library().sw_test_matmul
    function.argtypes = (c_char_p, c_int, c_int32, c_int32, c_void_p, c_void_p, c_void_p, c_int, c_int, c_void_p, c_int,
                         c_int, c_int, c_void_p, c_int64, c_int)  # fmt: skip
    num_panels = -(-weights.rows // PANEL)
    panels = panels if panels is not None else range(num_panels)
    ids = None if row_ids is None else np.array(row_ids, np.int32)
    num_rows = len(x) if ids is None else len(ids)
    before = np.full((num_rows, num_panels * PANEL), 7, np.float32)
    if adds_to is not None:
        before[:, : weights.rows] = adds_to
    x, bias = floats(x), None if bias is None else floats(bias)
    with guarded(before) as (out,):
        address = lambda array: None if array is None else array.ctypes.data  # noqa: E731
        assert not function(
            isa.encode(), weights.encoding, weights.rows, weights.columns, address(weights.data), address(bias),
            address(x), len(x), len(x) - num_prompt_rows, address(ids), num_rows, panels.start, len(panels),
            address(out), out.shape[1], adds_to is not None)  # fmt: skip
    columns = slice(panels.start * PANEL, panels.stop * PANEL)
    assert (np.delete(out, np.r_[columns], 1) == np.delete(before, np.r_[columns], 1)).all()
    return out[:, columns][:, : weights.rows - panels.start * PANEL].copy()


def rows_of(num_rows: int, columns: int, seed: int = 1) -> Floats:
    """Of very different sizes, with a zero row, a tiny one, a huge one, one of subnormal numbers and one with an
    outlier."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num_rows, columns)).astype(np.float32) * np.exp2(rng.integers(-8, 8, (num_rows, 1)))
    for row, factor in enumerate((0, 1e-30, 1e30, 1e-40)[: max(0, num_rows - 1)]):
        x[row + 1] *= factor
    x[0, columns // 2] = 300
    return x.astype(np.float32)


def quantised(x: Floats) -> NDArray[np.float64]:
    """What 8 bits for each group of 32 leave of x, in the arithmetic of float32 that kernels.h defines."""
    groups = x.reshape(len(x), -1, GROUP)
    scale = np.abs(groups).max(-1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        codes = np.where(scale >= np.finfo(np.float32).tiny, np.rint(groups * (np.float32(1) / scale)), 0)
    return (codes.astype(np.float64) * scale).reshape(x.shape)


def seen(encoding: Encoding, x: Floats) -> NDArray[np.float64]:
    """The activations as the product of that encoding takes them."""
    if encoding in QUANTISED:
        return quantised(x)
    if encoding == Encoding.BF16:
        return quants.dequantize(quants.quantize(x, GGMLQuantizationType.BF16), GGMLQuantizationType.BF16).astype(
            np.float64
        )
    return x.astype(np.float64)


SHAPES = [(16, 32), (48, 64), (33, 96), (1, 32), (160, 576), (70, 1536)]


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_the_scalar_twin_is_the_product_of_what_is_stored(encoding, rows, columns):
    weights, x = Weights.random(encoding, rows, columns), rows_of(6, columns)

    ours = matmul("scalar", weights, x)

    inputs = seen(encoding, x)
    exact = inputs @ weights.values.astype(np.float64).T
    size = np.abs(inputs) @ np.abs(weights.values).T  # an error is measured by the terms of the sum
    assert (np.abs(ours - exact) <= 2e-5 * size + 1e-37).all()


@pytest.mark.parametrize("isa", VECTOR_SETS)
@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 7, 8, 9, 16, 21, 37, 70])
def test_every_instruction_set_agrees_with_the_scalar_twin(isa, encoding, rows, columns, num_rows):
    weights, x = Weights.random(encoding, rows, columns), rows_of(num_rows, columns)

    ours, theirs = matmul(isa, weights, x), matmul("scalar", weights, x)

    if encoding in QUANTISED:
        assert same_bits(ours, theirs)  # exact integers, and the same fused operations in the same order
    else:
        size = np.abs(seen(encoding, x)) @ np.abs(weights.values).T
        assert (np.abs(ours - theirs) <= 1e-5 * size + FLUSHED).all()


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_row_does_not_depend_on_its_company(isa, encoding):
    """Nor on the panels that are asked for together, nor on its place."""
    weights, x = Weights.random(encoding, 136, 128), rows_of(40, 128)
    whole = matmul(isa, weights, x)

    for num_rows in (1, 2, 3, 4, 5, 6, 8, 11, 15, 16, 17, 23, 32, 37):
        first = 40 - num_rows
        assert same_bits(matmul(isa, weights, x[first:]), whole[first:]), num_rows
    for panels in (range(1), range(2, 5), range(3, 9), range(8, 9)):
        part = whole[:, panels.start * PANEL : panels.stop * PANEL]
        assert same_bits(matmul(isa, weights, x, panels=panels), part.copy()), panels


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("encoding", list(Encoding))
def test_rows_can_be_picked(isa, encoding):
    weights, x = Weights.random(encoding, 48, 64), rows_of(20, 64)
    ids = [3, 3, 19, 0, 7, 11, 2, 5, 6, 18, 1]

    assert same_bits(matmul(isa, weights, x, row_ids=ids), matmul(isa, weights, x)[ids])


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("num_rows", [1, 3, 8, 21])
def test_a_bias_and_what_is_there_are_added(isa, encoding, num_rows):
    weights, x = Weights.random(encoding, 40, 96), rows_of(num_rows, 96)
    rng = np.random.default_rng(5)
    bias, before = rng.standard_normal(40).astype(np.float32), rng.standard_normal((num_rows, 40)).astype(np.float32)

    plain = matmul(isa, weights, x)

    assert same_bits(matmul(isa, weights, x, bias=bias), plain + bias)
    assert same_bits(matmul(isa, weights, x, bias=bias, adds_to=before), plain + bias + before)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_row_comes_back_as_it_was_put_in(encoding):
    """Which is what an embedding is."""
    weights = Weights.random(encoding, 37, 96)
    for row in (0, 15, 16, 36):
        assert (weights.row(row) == weights.values[row]).all()


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("encoding", QUANTISED)
def test_the_largest_codes_do_not_overflow(isa, encoding):
    """Every code at its end, every activation at ±127: sums of pairs would not fit 16 bits."""
    columns, block_bytes = 1536, {Encoding.Q8: 34, Encoding.Q4_0: 18, Encoding.Q4_1: 20}[encoding]
    block = np.zeros(block_bytes, np.uint8)
    block[:2] = np.array([1], np.float16).view(np.uint8)
    block[-(16 if encoding != Encoding.Q8 else 32) :] = 0xFF if encoding != Encoding.Q8 else 0x7F
    weights = Weights(encoding, 16, columns, np.tile(block, (16, columns // GROUP)))
    x = np.full((6, columns), 127, np.float32)

    code = {Encoding.Q8: 127, Encoding.Q4_0: 7, Encoding.Q4_1: 15}[encoding]
    assert (matmul(isa, weights, x) == np.float32(columns * 127 * code)).all()
    assert (matmul(isa, weights, -x) == -np.float32(columns * 127 * code)).all()


def rounded(values: Floats) -> NDArray[np.float64]:
    """To the nearest bfloat16, ties away from zero."""
    bits = values.astype(np.float32).view(np.uint32) + np.uint32(0x8000)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


PROMPT_SETS = [name for name in SETS if name == "amx"]  # with a product of its own for rows of prompts
WITH_PROMPTS = [encoding for encoding in Encoding if encoding != Encoding.F32]


@pytest.mark.parametrize("isa", PROMPT_SETS)
@pytest.mark.parametrize("encoding", WITH_PROMPTS)
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("num_rows", [1, 5, 16, 17, 32, 33, 70])
def test_rows_of_prompts_are_products_of_bfloat16(isa, encoding, rows, columns, num_rows):
    weights, x = Weights.random(encoding, rows, columns), rows_of(num_rows, columns)

    ours = matmul(isa, weights, x, num_prompt_rows=num_rows)

    inputs, stored = seen(Encoding.BF16, x), rounded(weights.values)
    assert (np.abs(ours - inputs @ stored.T) <= 1e-5 * (np.abs(inputs) @ np.abs(stored).T) + FLUSHED).all()


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("columns", [128, 800])
def test_neither_kind_of_row_depends_on_the_other(isa, encoding, columns):
    weights, x = Weights.random(encoding, 136, columns), rows_of(40, columns)
    generated, prompts = matmul(isa, weights, x), matmul(isa, weights, x, num_prompt_rows=40)
    assert same_bits(generated, prompts) == (isa not in PROMPT_SETS or encoding not in WITH_PROMPTS)

    for num_rows, num_prompt_rows in ((1, 1), (2, 1), (15, 15), (16, 3), (17, 17), (31, 30), (33, 32), (40, 20)):
        first, border = 40 - num_rows, 40 - num_prompt_rows
        ours = matmul(isa, weights, x[first:], num_prompt_rows=num_prompt_rows)
        assert same_bits(ours[: border - first], generated[first:border]), (num_rows, num_prompt_rows)
        assert same_bits(ours[border - first :], prompts[border:]), (num_rows, num_prompt_rows)
    for panels in (range(1), range(2, 5), range(3, 9), range(8, 9)):
        ours = matmul(isa, weights, x, panels=panels, num_prompt_rows=40)
        assert same_bits(ours, prompts[:, panels.start * PANEL : panels.stop * PANEL].copy()), panels


@pytest.mark.parametrize("isa", PROMPT_SETS)
@pytest.mark.parametrize("encoding", WITH_PROMPTS)
@pytest.mark.parametrize("columns", [96, 800])
def test_a_bias_and_what_is_there_are_added_to_rows_of_prompts(isa, encoding, columns):
    weights, x = Weights.random(encoding, 40, columns), rows_of(21, columns)
    rng = np.random.default_rng(5)
    bias, before = rng.standard_normal(40).astype(np.float32), rng.standard_normal((21, 40)).astype(np.float32)
    size = np.abs(seen(Encoding.BF16, x)) @ np.abs(weights.values).T + np.abs(before) + np.abs(bias)

    plain = matmul(isa, weights, x, num_prompt_rows=21)
    ours = matmul(isa, weights, x, bias=bias, num_prompt_rows=21)
    added = matmul(isa, weights, x, bias=bias, adds_to=before, num_prompt_rows=21)

    assert (np.abs(ours - plain - bias) <= 1e-5 * size).all()
    assert (np.abs(added - plain - bias - before) <= 1e-5 * size).all()


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("num_prompt_rows", [0, 9])
def test_a_row_that_is_no_number_stays_one_and_alone(isa, bad, encoding, num_prompt_rows):
    weights, x = Weights.random(encoding, 48, 64), rows_of(9, 64)
    whole = matmul(isa, weights, x, num_prompt_rows=num_prompt_rows)
    x[4, 3] = bad

    ours = matmul(isa, weights, x, num_prompt_rows=num_prompt_rows)

    assert not np.isfinite(ours[4]).any()
    assert same_bits(np.delete(ours, 4, 0), np.delete(whole, 4, 0))


def test_sizes_that_do_not_fit_are_refused():
    weights = Weights(Encoding.Q8, 16, 40, np.zeros((16, 34), np.uint8))
    with pytest.raises(AssertionError):
        matmul("scalar", weights, np.zeros((1, 40), np.float32))
