"""The kernels that take one row at a time: the scalar twin against numpy, every other instruction set against it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from model.native.structs import KVType
from tests.model.native.kernel_library import BLOCK, Floats, KVCache, RowKernels, instruction_sets, same_bits

SETS = instruction_sets()
SIZES = (1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 100, 576, 1537)
HEAD_DIMS = (8, 24, 64, 72, 80, 96, 128, 256)
SCALAR = RowKernels("scalar")
INFINITY, NAN = np.float32(np.inf), np.float32(np.nan)


@pytest.fixture(params=SETS)
def kernels(request: pytest.FixtureRequest) -> RowKernels:
    return RowKernels(request.param)


def random_row(n: int, seed: int = 0, scale: float = 1.0) -> Floats:
    return (np.random.default_rng([seed, n]).standard_normal(n) * scale).astype(np.float32)


def odd_rows(n: int) -> dict[str, Floats]:
    one_large = random_row(n)
    one_large[n // 2] = 3e4
    return {
        "usual": random_row(n),
        "zero": np.zeros(n, np.float32),
        "negative zero": np.full(n, -0.0, np.float32),
        "large": random_row(n, scale=1e15),
        "one large": one_large,
        "subnormal": random_row(n, scale=1e-41),
        "tiny": random_row(n, scale=1e-30),
        "small beside large": random_row(n) * np.where(np.arange(n) % 3 == 0, 1e4, 1e-6).astype(np.float32),
    }


ROW_KINDS = tuple(odd_rows(1))


# ── rms_norm ──


def rms_norm_by_the_book(x: Floats, weight: Floats, eps: float) -> NDArray[np.float64]:
    wide: NDArray[np.float64] = x.astype(np.float64)
    factor = float(np.sqrt((wide**2).mean() + eps))
    return wide / factor * weight


@pytest.mark.parametrize("kind", ROW_KINDS)
@pytest.mark.parametrize("n", SIZES)
def test_rms_norm(kernels: RowKernels, n: int, kind: str) -> None:
    x, weight = odd_rows(n)[kind], random_row(n, seed=1)
    expected = rms_norm_by_the_book(x, weight, 1e-5)
    np.testing.assert_allclose(kernels.rms_norm(x, weight), expected, rtol=3e-6, atol=1e-44)


@pytest.mark.parametrize("n", [1, 16, 33, 576])
@pytest.mark.parametrize("bad", [NAN, INFINITY])
def test_rms_norm_of_a_bad_row_is_seen(kernels: RowKernels, n: int, bad: np.float32) -> None:
    x = random_row(n)
    x[n - 1] = bad
    assert np.isnan(kernels.rms_norm(x, np.ones(n, np.float32))[n - 1])


# ── quantize ──


def quantized_by_the_book(x: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Any number of rows, each with a scale of its own."""
    scale = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    usable = (scale >= np.finfo(np.float32).tiny) & np.isfinite(scale)
    inverse = np.float32(1) / np.where(usable, scale, np.float32(1))
    q = np.where(usable, np.rint(x * inverse), 0)
    return np.nan_to_num(q).astype(np.int8), np.where(scale < np.finfo(np.float32).tiny, 0, scale)[..., 0]


def same_scales(left: Floats, right: Floats) -> bool:
    """A NaN is a NaN, whatever its sign."""
    return np.array_equal(left, right, equal_nan=True)


@pytest.mark.parametrize("kind", ROW_KINDS)
@pytest.mark.parametrize("n", [32, 64, 96, 576, 1536])
def test_quantize(kernels: RowKernels, n: int, kind: str) -> None:
    x = odd_rows(n)[kind]
    q, scale, total = kernels.quantize(x)
    expected_q, expected_scale = quantized_by_the_book(x.reshape(-1, 32))
    assert same_bits(q, expected_q.reshape(-1))
    assert same_scales(scale, expected_scale)
    assert np.array_equal(total, expected_q.sum(axis=1, dtype=np.int32))


def test_halves_are_quantized_to_even(kernels: RowKernels) -> None:
    x = np.zeros(32, np.float32)
    x[:8] = [127, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -127]
    assert kernels.quantize(x)[0][:8].tolist() == [127, 0, 2, 2, 0, -2, 126, -127]


@pytest.mark.parametrize("place", [0, 1, 15, 16, 31])
@pytest.mark.parametrize("bad", [NAN, -NAN, INFINITY, -INFINITY])
def test_only_the_group_with_a_bad_value_has_a_bad_scale(kernels: RowKernels, bad: np.float32, place: int) -> None:
    x = random_row(96)
    before = kernels.quantize(x)
    x[32 + place] = bad
    q, scale, total = kernels.quantize(x)
    assert np.isnan(scale[1]) if np.isnan(bad) else scale[1] == INFINITY
    assert not q[32:64].any()
    assert total[1] == 0
    assert same_bits(q[:32], before[0][:32])
    assert same_bits(q[64:], before[0][64:])
    assert scale[[0, 2]].tolist() == before[1][[0, 2]].tolist()


# ── to_bf16, silu_mul, rotate ──


def bf16_by_the_book(x: Floats) -> NDArray[np.uint16]:
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


@pytest.mark.parametrize("n", SIZES)
def test_to_bf16(kernels: RowKernels, n: int) -> None:
    for x in odd_rows(n).values():
        assert same_bits(kernels.to_bf16(x), bf16_by_the_book(x))


def test_to_bf16_at_the_edges(kernels: RowKernels) -> None:
    bits = np.array(
        [0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x00000001, 0x00008000, 0x80018000],
        np.uint32,
    )
    expected = [0x3F80, 0x3F82, 0x3F81, 0x7F80, 0x7F80, 0xFF80, 0x0000, 0x0000, 0x8002]
    assert kernels.to_bf16(bits.view(np.float32)).tolist() == expected
    nans = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001], np.uint32).view(np.float32)
    halves = kernels.to_bf16(np.tile(nans, 6))
    assert ((halves & 0x7F80 == 0x7F80) & (halves & 0x7F != 0)).all()


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 10.0, 1e6])
def test_silu_mul(kernels: RowKernels, n: int, scale: float) -> None:
    gate, up = random_row(n, scale=scale), random_row(n, seed=1)
    wide = gate.astype(np.float64)
    with np.errstate(over="ignore"):
        expected = wide / (1 + np.exp(-wide)) * up
    # Beyond -88, where the true value is below 1e-36, exp() has reached its largest.
    np.testing.assert_allclose(kernels.silu_mul(gate, up), expected, rtol=2e-6, atol=1e-30)


def test_silu_mul_of_a_bad_value_is_seen_there_alone(kernels: RowKernels) -> None:
    gate, up = random_row(40), random_row(40, seed=1)
    before = kernels.silu_mul(gate, up)
    gate[7], up[38] = NAN, INFINITY
    after = kernels.silu_mul(gate, up)
    assert np.isnan(after[7])
    assert np.isinf(after[38])
    others = np.delete(np.arange(40), [7, 38])
    assert same_bits(after[others], before[others])


# ── an adapter's two products ──

RANKS = (1, 3, 8, 16, 21)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("n", SIZES)
def test_shrink(kernels: RowKernels, n: int, rank: int) -> None:
    a, x = random_row(rank * n).reshape(rank, n), random_row(n, seed=1)
    got = kernels.shrink(a, x)
    np.testing.assert_allclose(got, a.astype(np.float64) @ x, atol=1e-5 * n**0.5)
    for r in range(rank):  # each of them whatever the others are
        assert same_bits(kernels.shrink(a[r : r + 1], x), got[r : r + 1])


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("n", SIZES)
def test_expand(kernels: RowKernels, n: int, rank: int) -> None:
    b, sums, out = random_row(rank * n).reshape(rank, n), random_row(rank, seed=1), random_row(n, seed=2)
    got = kernels.expand(b, sums, 0, out)
    np.testing.assert_allclose(got, out + sums.astype(np.float64) @ b, atol=1e-5)
    assert same_bits(got, SCALAR.expand(b, sums, 0, out))
    for first in range(0, n, 32):  # each part is what it is in the whole
        assert same_bits(kernels.expand(b, sums, first, out[first : first + 32]), got[first : first + 32])


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_rotate(kernels: RowKernels, head_dim: int) -> None:
    x, angles = random_row(head_dim), random_row(head_dim // 2, seed=1)
    a, b = np.split(x.astype(np.float64), 2)
    cosine, sine = np.cos(angles), np.sin(angles)
    expected = np.concatenate([a * cosine - b * sine, b * cosine + a * sine])
    got = kernels.rotate(x, cosine, sine)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert same_bits(got, SCALAR.rotate(x, cosine, sine))


# ── write_kv ──


@pytest.mark.parametrize("kv_type", KVType)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_write_kv_fills_the_layout(kernels: RowKernels, head_dim: int, kv_type: KVType) -> None:
    n = BLOCK + 5
    keys, values = random_row(n * head_dim).reshape(n, -1), random_row(n * head_dim, seed=1).reshape(n, -1)
    cache = kernels.fill(KVCache(kv_type, head_dim, n), keys, values)
    assert same_bits(cache.memory, SCALAR.fill(KVCache(kv_type, head_dim, n), keys, values).memory)
    for read, written in zip(cache.read(n), (keys, values), strict=True):
        if kv_type == KVType.INT8:
            q, scale = quantized_by_the_book(written)
            written = q * scale[:, None]
        elif kv_type == KVType.BF16:
            written = (bf16_by_the_book(written).astype(np.uint32) << 16).view(np.float32)
        assert np.array_equal(read, written)


@pytest.mark.parametrize("kv_type", KVType)
@pytest.mark.parametrize("kind", ROW_KINDS)
def test_write_kv_of_odd_rows(kernels: RowKernels, kind: str, kv_type: KVType) -> None:
    row = odd_rows(72)[kind]
    caches = [KVCache(kv_type, 72, BLOCK) for _ in range(2)]
    for one, cache in zip((kernels, SCALAR), caches, strict=True):
        one.write_kv(cache, 3, row, random_row(72))
    assert same_bits(caches[0].memory, caches[1].memory)
    assert np.isfinite(caches[0].read(BLOCK)[0][3]).all()


@pytest.mark.parametrize("kv_type", KVType)
@pytest.mark.parametrize("position", [0, 13, 31])
def test_write_kv_touches_one_position(kernels: RowKernels, position: int, kv_type: KVType) -> None:
    cache = KVCache(kv_type, 64, BLOCK)
    kernels.write_kv(cache, position, random_row(64), random_row(64, seed=1))
    for rows in cache.read(BLOCK):
        found, left = np.isfinite(rows).all(axis=1), np.isnan(rows).all(axis=1)
        assert np.flatnonzero(found).tolist() == [position]
        assert left.sum() == BLOCK - 1


@pytest.mark.parametrize("kv_type", KVType)
def test_a_bad_key_is_bad_when_it_is_read(kernels: RowKernels, kv_type: KVType) -> None:
    cache, key = KVCache(kv_type, 64, BLOCK), random_row(64)
    key[63] = NAN
    kernels.write_kv(cache, 0, key, random_row(64))
    keys, values = cache.read(1)
    assert np.isnan(keys[0, 63])
    assert np.isfinite(values).all()
