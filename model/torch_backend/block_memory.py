"""Memory in equal blocks that costs nothing until it is touched, and gives a block back so that its contents are gone.

On a CPU: one private anonymous mapping. The operating system backs a page when it is first written, as zeros, and takes
it away again when a block is cleared, so the size asked for is a limit and not a reservation. On any other device: one
reservation, zeroed. Knows bytes and blocks only; what lies in them is `kv_cache.py`'s.
"""

import contextlib
import mmap
import sys

import torch
from torch import Tensor


class BlockMemory:
    """Every block reads as zeros until it is written, and again after `clear`."""

    def __init__(self, num_blocks: int, block_bytes: int, device: torch.device) -> None:
        """A block has to be whole pages, so that taking its pages never touches a neighbour's."""
        assert block_bytes % mmap.PAGESIZE == 0, block_bytes
        self._block_bytes = block_bytes
        self._mapping = _anonymous_mapping(num_blocks * block_bytes) if device.type == "cpu" else None
        if self._mapping is None:
            memory = torch.zeros(num_blocks * block_bytes, dtype=torch.uint8, device=device)
        else:
            memory = torch.frombuffer(self._mapping, dtype=torch.uint8)
        self.blocks: Tensor = memory.view(num_blocks, block_bytes)  # uint8
        self._system_clears = self._mapping is not None and _taken_pages_read_zero()

    def clear(self, block_id: int) -> None:
        if self._mapping is not None and self._system_clears and sys.platform == "linux":
            self._mapping.madvise(mmap.MADV_DONTNEED, block_id * self._block_bytes, self._block_bytes)
        else:
            self.blocks[block_id].zero_()


def _anonymous_mapping(num_bytes: int) -> mmap.mmap:
    """Raises OSError where the system refuses (strict overcommit accounting)."""
    if sys.platform == "win32":
        return mmap.mmap(-1, num_bytes)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)  # Python has its name since 3.13
    mapping = mmap.mmap(-1, num_bytes, flags=flags)
    if sys.platform == "linux":
        # A huge page would make 2 MiB resident for the first position written, and stay so until all of it is free.
        with contextlib.suppress(OSError):  # a kernel built without huge pages knows no such advice, and needs none
            mapping.madvise(mmap.MADV_NOHUGEPAGE)
    return mapping


def _taken_pages_read_zero() -> bool:
    """Whether advice that a page is not needed takes it away at once, as Linux promises for private anonymous memory.
    macOS and BSD may leave the contents, and a sandbox may ignore the call, so the system is asked by trying."""
    if sys.platform != "linux":
        return False
    probe = _anonymous_mapping(mmap.PAGESIZE)
    probe[0] = 1
    with contextlib.suppress(OSError):  # locked memory refuses: then we write the zeros ourselves
        probe.madvise(mmap.MADV_DONTNEED)
    return probe[0] == 0
