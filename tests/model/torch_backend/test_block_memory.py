import mmap
import sys
from pathlib import Path

import pytest
import torch

from model.torch_backend import block_memory
from model.torch_backend.block_memory import BlockMemory
from tests.model.torch_backend.devices import ON_EVERY_DEVICE

MIB = 2**20
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


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


@on_linux
def test_memory_is_a_limit_that_fills_with_blocks_and_empties_when_they_are_cleared() -> None:
    memory = BlockMemory(256, MIB, torch.device("cpu"))
    idle = resident_bytes()
    memory.blocks[:200].fill_(1)
    full = resident_bytes()
    for block_id in range(100):
        memory.clear(block_id)
    half = resident_bytes()
    for block_id in range(100, 200):
        memory.clear(block_id)
    assert full - idle == pytest.approx(200 * MIB, abs=8 * MIB)
    assert half - idle == pytest.approx(100 * MIB, abs=8 * MIB)
    assert resident_bytes() - idle == pytest.approx(0, abs=8 * MIB)


@on_linux
def test_reading_what_was_never_written_takes_no_memory() -> None:
    memory = BlockMemory(64, MIB, torch.device("cpu"))
    idle = resident_bytes()
    assert not memory.blocks.view(torch.int64).any()
    assert resident_bytes() - idle < 8 * MIB + 64 * MIB // 4  # the result of `any` over bytes, not the blocks


def test_a_block_that_shares_a_page_is_refused() -> None:
    with pytest.raises(AssertionError):
        BlockMemory(2, mmap.PAGESIZE // 2, torch.device("cpu"))
