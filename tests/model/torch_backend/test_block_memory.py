import mmap

import pytest
import torch

from model.torch_backend import block_memory
from model.torch_backend.block_memory import BlockMemory
from tests.model.torch_backend.devices import ON_EVERY_DEVICE
from tests.model.torch_backend.resident import needs_linux, resident_bytes

MIB = 2**20


@ON_EVERY_DEVICE
def test_a_cleared_block_reads_as_zeros_and_its_neighbours_are_untouched(device: str) -> None:
    memory = BlockMemory(3, 2 * mmap.PAGESIZE, torch.device(device))
    assert not memory.blocks.any()
    memory.blocks.fill_(7)
    memory.clear(1)
    assert [block.unique().tolist() for block in memory.blocks] == [[7], [0], [7]]


def test_where_the_system_does_not_clear_we_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_memory, "_taken_pages_read_zero", lambda: False)
    memory = BlockMemory(2, mmap.PAGESIZE, torch.device("cpu"))
    memory.blocks.fill_(7)
    memory.clear(0)
    assert [block.unique().tolist() for block in memory.blocks] == [[0], [7]]


@needs_linux
def test_memory_is_a_limit_that_fills_with_blocks_and_empties_when_they_are_cleared() -> None:
    memory = BlockMemory(256, MIB, torch.device("cpu"))
    assert resident_bytes(memory.blocks) == 0
    memory.blocks[:200].fill_(1)
    assert resident_bytes(memory.blocks) == 200 * MIB
    for block_id in range(100):
        memory.clear(block_id)
    assert resident_bytes(memory.blocks) == 100 * MIB
    for block_id in range(100, 200):
        memory.clear(block_id)
    assert resident_bytes(memory.blocks) == 0


@needs_linux
def test_the_first_byte_of_a_block_makes_one_page_resident() -> None:
    memory = BlockMemory(64, 4 * MIB, torch.device("cpu"))
    memory.blocks[3, 0] = 1
    assert resident_bytes(memory.blocks) == mmap.PAGESIZE


def test_a_block_that_shares_a_page_is_refused() -> None:
    with pytest.raises(AssertionError):
        BlockMemory(2, mmap.PAGESIZE // 2, torch.device("cpu"))
