import mmap

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.torch_backend.kv_cache import BLOCK_SIZE, KVCache, KVLayout
from tests.model.torch_backend.devices import ON_EVERY_DEVICE

LAYOUT = KVLayout(num_layers=2, num_kv_heads=2, head_dim=4, dtype=torch.float32)


def make_cache(num_blocks: int = 3, device: str = "cpu", poison: bool = False) -> KVCache:
    return KVCache(LAYOUT, num_blocks, torch.device(device), poison)


def rows_of(cache: KVCache, block_ids: list[int], offsets: list[int]) -> Tensor:
    return torch.from_numpy(cache.rows(np.array(block_ids), np.array(offsets))).to(cache.device)


def fill(cache: KVCache, block_id: int, value: float) -> None:
    rows = rows_of(cache, [block_id] * BLOCK_SIZE, list(range(BLOCK_SIZE)))
    for layer in range(LAYOUT.num_layers):
        numbers = torch.full((BLOCK_SIZE, 2, 4), value + layer, device=cache.device)
        cache.append(layer, numbers, -numbers, rows)


@given(
    layers=st.integers(1, 40),
    heads=st.integers(1, 9),
    head_dim=st.sampled_from([2, 16, 64, 80, 96, 128]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_block_is_whole_pages_and_at_most_one_rounding_larger_than_its_numbers(
    layers: int, heads: int, head_dim: int, dtype: torch.dtype
) -> None:
    layout = KVLayout(layers, heads, head_dim, dtype)
    numbers = layers * 2 * BLOCK_SIZE * heads * head_dim * dtype.itemsize
    assert layout.block_bytes % mmap.PAGESIZE == 0
    assert layout.block_bytes % (layout.row_size * dtype.itemsize) == 0
    assert numbers <= layout.block_bytes < numbers + mmap.PAGESIZE * layout.row_size * dtype.itemsize


def test_the_default_models_block_has_no_padding() -> None:
    assert KVLayout(30, 3, 64, torch.float32).block_bytes == 30 * 2 * 3 * 64 * 4 * BLOCK_SIZE


@ON_EVERY_DEVICE
def test_what_is_written_is_read_in_its_layer_and_position_and_nowhere_else(device: str) -> None:
    cache = make_cache(device=device)
    rows = rows_of(cache, [2, 0], [31, 0])
    keys, values = torch.randn(2, 2, 2, 4, device=device)
    cache.append(1, keys, values, rows)
    read_keys, read_values = cache.read(1, rows.flip(0))
    assert torch.equal(read_keys, keys.flip(0).flatten(1))
    assert torch.equal(read_values, values.flip(0).flatten(1))
    written = sum(int(cache.contents(block_id).count_nonzero()) for block_id in range(3))
    assert written == 2 * 2 * 8
    assert not torch.cat(cache.read(0, rows)).any()


@ON_EVERY_DEVICE
@pytest.mark.parametrize("poison", [False, True])
def test_destroying_a_block_leaves_nothing_in_it_and_all_in_the_others(device: str, poison: bool) -> None:
    cache = make_cache(device=device, poison=poison)
    for block_id in range(3):
        fill(cache, block_id, 10.0 + block_id)
    kept = cache.contents(0).clone(), cache.contents(2).clone()
    cache.destroy([1])
    gone = cache.contents(1)
    assert gone.isnan().all() if poison else not gone.any()
    assert all(torch.equal(a, b) for a, b in zip(kept, (cache.contents(0), cache.contents(2)), strict=True))
    cache.destroy([1, 1])


def test_poison_is_everywhere_but_in_the_zero_block() -> None:
    cache = make_cache(poison=True)
    assert all(cache.contents(block_id).isnan().all() for block_id in range(3))
    zero_rows = torch.arange(cache.zero_row, cache.zero_row + BLOCK_SIZE)
    assert not any(numbers.any() for layer in range(2) for numbers in cache.read(layer, zero_rows))


def test_the_zero_block_cannot_be_destroyed_and_blocks_have_an_end() -> None:
    cache = make_cache()
    for block_id in (-1, 3):
        with pytest.raises(AssertionError):
            cache.destroy([block_id])


def test_numbers_are_kept_in_the_caches_own_dtype() -> None:
    cache = KVCache(KVLayout(1, 1, 2, torch.bfloat16), 1, torch.device("cpu"))
    cache.append(0, torch.tensor([[[1.001, 2.0]]]), torch.tensor([[[3.0, 4.0]]]), torch.tensor([0]))
    keys, _ = cache.read(0, torch.tensor([0]))
    assert keys.dtype == torch.bfloat16
    assert keys.tolist() == [[1.0, 2.0]]
