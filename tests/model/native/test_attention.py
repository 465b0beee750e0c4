"""Attention over the blocks of a slot: the scalar twin against numpy, every other instruction set against it; and that
a query's result is made of its own positions alone, in the same bits however it is computed."""

import functools
from copy import deepcopy

import numpy as np
import pytest
from numpy.typing import NDArray

from model.native.structs import KVType
from tests.model.native.kernel_library import (
    BLOCK,
    Floats,
    KVCache,
    RowKernels,
    by_chunks,
    instruction_sets,
    same_bits,
)

SCALAR = RowKernels("scalar")
HEAD_DIMS = (64, 72, 80, 96, 128)
# (positions before the chunk, tokens of the chunk, query heads of a kv head)
SHAPES = (
    (0, 1, 1),
    (0, 1, 8),
    (1, 1, 3),
    (30, 1, 2),
    (31, 1, 7),
    (32, 1, 5),
    (299, 1, 3),
    (299, 1, 9),
    (0, 2, 6),
    (0, 33, 1),
    (5, 7, 3),
    (17, 70, 4),
    (63, 16, 3),
    (230, 70, 1),
    (100, 40, 8),
)


@pytest.fixture(params=instruction_sets())
def kernels(request: pytest.FixtureRequest) -> RowKernels:
    return RowKernels(request.param)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Floats:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


@functools.cache
def filled(kv_type: KVType, head_dim: int, num_positions: int, *, blocks: int = 0, scale: float = 1.0) -> KVCache:
    """Keys and values that depend on the position alone, in blocks placed by the seed `blocks`; not to be changed."""
    keys = normal(400, head_dim, seed=1, scale=scale)[:num_positions]
    values = normal(400, head_dim, seed=2)[:num_positions]
    return SCALAR.fill(KVCache(kv_type, head_dim, num_positions, blocks), keys, values)


def rounded(x: Floats) -> Floats:
    """To the next bfloat16."""
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def queries_as_taken(kernels: RowKernels, cache: KVCache, queries: Floats) -> NDArray[np.float64]:
    """Tiles take them as bfloat16, after the factor that scores get, for powers of two: that is taken off again."""
    if not kernels.has_pairs(cache):
        return queries.astype(np.float64)
    factor = np.float32(cache.head_dim**-0.5) * np.float32(np.log2(np.e))
    taken: NDArray[np.float64] = rounded(queries * factor).astype(np.float64)
    return taken / float(np.log2(np.e) * cache.head_dim**-0.5)


def tolerance(kernels: RowKernels, cache: KVCache) -> float:
    """Of sums of values of up to 4 with weights that add up to 1: as bfloat16s, each is off by up to 2^-9 of
    itself, and so the sum by up to 2^-7."""
    return 2**-7 if kernels.has_pairs(cache) else 1e-5


def by_the_book(cache: KVCache, queries: NDArray[np.float64], first_position: int) -> NDArray[np.float64]:
    num_tokens, _, head_dim = queries.shape
    keys, values = (rows.astype(np.float64) for rows in cache.read(first_position + num_tokens))
    out = np.zeros(queries.shape)
    for t, heads in enumerate(queries):
        n = first_position + t + 1
        scores = heads @ keys[:n].T / np.sqrt(head_dim)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[t] = weights / weights.sum(axis=1, keepdims=True) @ values[:n]
    return out


@pytest.mark.parametrize("kv_type", KVType)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_softmax_of_scores_mixes_values(
    kernels: RowKernels, shape: tuple[int, int, int], head_dim: int, kv_type: KVType
) -> None:
    first, num_tokens, group_heads = shape
    cache = filled(kv_type, head_dim, first + num_tokens)
    queries = normal(num_tokens, group_heads, head_dim, scale=2.0)
    got = kernels.attend(cache, queries, first)
    expected = by_the_book(cache, queries_as_taken(kernels, cache, queries), first)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(kernels, cache))


@pytest.mark.parametrize("kv_type", KVType)
@pytest.mark.parametrize("scale", [0.0, 1e-41, 1e-20, 300.0, 1e15])
@pytest.mark.parametrize("head_dim", [64, 80])
def test_keys_of_any_size(kernels: RowKernels, head_dim: int, scale: float, kv_type: KVType) -> None:
    cache = filled(kv_type, head_dim, 70, scale=scale)
    queries = normal(3, 3, head_dim)
    got = kernels.attend(cache, queries, 67)
    expected = by_the_book(cache, queries_as_taken(kernels, cache, queries), 67)
    # Scores in the hundreds are rounded in their fifth decimal, which is an error of as much in a weight.
    np.testing.assert_allclose(got, expected, rtol=0, atol=max(tolerance(kernels, cache), 1e-5 if scale < 1 else 1e-3))


@pytest.mark.parametrize("kv_type", KVType)
@pytest.mark.parametrize("head_dim", [64, 72, 128])
@pytest.mark.parametrize("group_heads", range(1, 9))
def test_chunks_do_not_change_a_bit(kernels: RowKernels, group_heads: int, head_dim: int, kv_type: KVType) -> None:
    first, num_tokens = 40, 70
    cache = filled(kv_type, head_dim, first + num_tokens)
    queries = normal(num_tokens, group_heads, head_dim)
    whole = kernels.attend(cache, queries, first)
    for sizes in ((1,), (2,), (3, 5, 7), (8,), (9, 31), (64,)):
        assert same_bits(by_chunks(kernels, cache, queries, first, sizes), whole), sizes


@pytest.mark.parametrize("kv_type", KVType)
def test_heads_that_come_along_do_not_change_a_bit(kernels: RowKernels, kv_type: KVType) -> None:
    cache, queries = filled(kv_type, 64, 130), normal(30, 8, 64)
    together = kernels.attend(cache, queries, 100)
    for head in range(8):
        alone = kernels.attend(cache, queries[:, head : head + 1], 100)
        assert same_bits(alone, together[:, head : head + 1].copy())


@pytest.mark.parametrize("kv_type", KVType)
def test_other_blocks_do_not_change_a_bit(kernels: RowKernels, kv_type: KVType) -> None:
    queries = normal(20, 3, 96)
    here, there = (kernels.attend(filled(kv_type, 96, 200, blocks=seed), queries, 180) for seed in (1, 2))
    assert same_bits(here, there)


@pytest.mark.parametrize("kv_type", KVType)
@pytest.mark.parametrize("head_dim", [64, 72])
@pytest.mark.parametrize("first_bad", [33, 40, 47, 64])
def test_nothing_beyond_a_querys_position_reaches_it(
    kernels: RowKernels, first_bad: int, head_dim: int, kv_type: KVType
) -> None:
    """Later tokens of the same chunk are written before any of it is computed; here they are NaN."""
    first, num_tokens = 25, 45
    queries = normal(num_tokens, 3, head_dim)
    clean = kernels.attend(filled(kv_type, head_dim, first + num_tokens), queries, first)
    cache = deepcopy(filled(kv_type, head_dim, first + num_tokens))
    bad = np.full(head_dim, np.nan, np.float32)
    for position in range(first_bad, first + num_tokens):
        SCALAR.write_kv(cache, position, bad, bad)
    got = kernels.attend(cache, queries, first)
    num_clean = first_bad - first
    assert same_bits(got[:num_clean].copy(), clean[:num_clean].copy())
    assert np.isnan(got[num_clean:]).all()


@pytest.mark.parametrize("kv_type", KVType)
def test_a_bad_query_is_seen_in_its_own_row_alone(kernels: RowKernels, kv_type: KVType) -> None:
    cache, queries = filled(kv_type, 64, 60), normal(10, 3, 64)
    clean = kernels.attend(cache, queries, 50)
    queries[4, 1, 63] = np.nan
    got = kernels.attend(cache, queries, 50)
    assert np.isnan(got[4, 1]).all()
    got[4, 1] = clean[4, 1]
    assert same_bits(got, clean)


@pytest.mark.parametrize("kv_type", KVType)
def test_a_value_that_is_not_finite_is_seen(kernels: RowKernels, kv_type: KVType) -> None:
    """Also where its weight is nothing: who looks for bad rows must find this one."""
    cache, value = deepcopy(filled(kv_type, 64, 40)), normal(64)
    value[5] = np.inf
    SCALAR.write_kv(cache, BLOCK + 2, normal(64, scale=50.0), value)
    assert not np.isfinite(kernels.attend(cache, normal(1, 3, 64), 39)[..., 5]).any()
