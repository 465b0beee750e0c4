"""The KV cache: keys and values of every slot, in blocks of 32 token positions.

Owns the memory, its layout, and the destruction of what lies in a freed block. Knows nothing of slots: the block ids of
each come with every call, from the engine, which alone decides who owns a block.
"""

import math
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import ModelConfig
from model.torch_backend.block_memory import BlockMemory

BLOCK_SIZE = 32  # token positions
STAMP_BYTES = 5 * 8

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class KVLayout:
    """[block][layer][keys, values][32 positions][K][D], and perhaps a stamp (isolation.py) behind all that of a block.

    All layers of a block lie together, so that freeing a block is one stretch of whole pages. The K heads of a position
    lie together, so that one row number finds all that a token left in a layer: a write is one row, and a slot is read
    by a list of rows that is the same for every layer, keys and values alike.
    """

    num_layers: int  # L
    num_kv_heads: int  # K
    head_dim: int  # D
    dtype: torch.dtype
    has_stamp: bool = False

    @classmethod
    def of(cls, config: ModelConfig, dtype: torch.dtype, has_stamp: bool = False) -> "KVLayout":
        return cls(config.num_layers, config.num_kv_heads, config.head_dim, dtype, has_stamp)

    @property
    def row_size(self) -> int:
        """Numbers in a row: the keys, or the values, of one position in one layer."""
        return self.num_kv_heads * self.head_dim

    @property
    def rows_per_block(self) -> int:
        """Rounded up until a block ends on a page."""
        row_bytes = self.row_size * self.dtype.itemsize
        rows_to_page_end = mmap.PAGESIZE // math.gcd(mmap.PAGESIZE, row_bytes)
        num_rows = math.ceil((self.stamp_offset + (STAMP_BYTES if self.has_stamp else 0)) / row_bytes)
        return math.ceil(num_rows / rows_to_page_end) * rows_to_page_end

    @property
    def stamp_offset(self) -> int:
        """Bytes of keys and values in a block."""
        return self.num_layers * 2 * BLOCK_SIZE * self.row_size * self.dtype.itemsize

    @property
    def block_bytes(self) -> int:
        return self.rows_per_block * self.row_size * self.dtype.itemsize


class KVCache:
    """One more block than it has to give away: the last is never written and stays zero. Positions that are read only
    to fill up a shape are read there, so no read ever touches a position that its slot did not write."""

    def __init__(self, layout: KVLayout, num_blocks: int, device: torch.device, poison: bool = False) -> None:
        """`poison`: blocks that nobody has written hold NaN instead of zeros."""
        self.layout = layout
        self.num_blocks = num_blocks
        self.device = device
        self._poison = poison
        self._memory = BlockMemory(num_blocks + 1, layout.block_bytes, device)
        self._blocks = self._memory.blocks.view(layout.dtype)  # [num_blocks + 1, rows_per_block * K*D]
        rows = self._blocks.view(-1, layout.row_size)
        stretches = range(
            2 * layout.num_layers
        )  # of 32 rows in each block: a layer's keys, its values, the next layer's
        self._views = [rows[i * BLOCK_SIZE : len(rows) - (stretches[-1] - i) * BLOCK_SIZE] for i in stretches]
        if poison:
            self._blocks[:num_blocks].fill_(math.nan)
        self._clear_word = _poison_word(layout.dtype) if poison else 0
        if layout.has_stamp:
            start = layout.stamp_offset
            self.stamps = self._memory.blocks[:num_blocks, start : start + STAMP_BYTES].view(torch.int64)  # [blocks, 5]
            self._words = self._memory.blocks[:num_blocks, :start].view(torch.int32)  # [blocks, words]
            self._weights = 2 * torch.arange(self._words.shape[1], device=device) + 1

    @property
    def zero_row(self) -> int:
        return self.num_blocks * self.layout.rows_per_block

    def rows(self, block_ids: Indices, offsets: Indices) -> Indices:
        """The rows, in every layer, of positions in blocks."""
        return block_ids * self.layout.rows_per_block + offsets

    def append(self, layer: int, keys: Tensor, values: Tensor, rows: Tensor) -> None:
        """Writes keys and values [T, K, D] at rows [T]."""
        assert keys.shape == values.shape == (len(rows), self.layout.num_kv_heads, self.layout.head_dim), keys.shape
        for view, new in zip(self._of(layer), (keys, values), strict=True):
            view.index_copy_(0, rows, new.reshape(len(rows), -1).to(self.layout.dtype))

    def read(self, layer: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values at rows [N], each [N, K*D]: copies, in the cache's dtype."""
        keys, values = self._of(layer)
        return keys.index_select(0, rows), values.index_select(0, rows)

    def destroy(self, block_ids: Iterable[int]) -> None:
        """What the blocks held is gone when this returns, and their memory is the operating system's again."""
        for block_id in block_ids:
            assert 0 <= block_id < self.num_blocks, block_id
            self._memory.clear(block_id)
            if self._poison:
                self._blocks[block_id].fill_(math.nan)

    def is_clear(self, block_id: int) -> bool:
        """Whether it holds nothing, as a block that nobody owns."""
        return bool((self._memory.blocks[block_id].view(torch.int32) == self._clear_word).all())

    def has_no_stamp(self, block_id: int) -> bool:
        """Nor anything else where that goes."""
        return bool((self.stamps[block_id].view(torch.int32) == self._clear_word).all())

    def checksums(self, block_ids: Sequence[int]) -> list[int]:
        """Of all keys and values of each block. No single number that changes leaves it as it was: the weights are odd,
        and odd factors can be undone modulo 2^64."""
        words = self._words[torch.tensor(block_ids, dtype=torch.int64, device=self.device)]
        sums: list[int] = (words * self._weights).sum(-1).tolist()
        return sums

    def contents(self, block_id: int) -> Tensor:
        """All numbers of a block, a view; for checks."""
        return self._blocks[block_id]

    def _of(self, layer: int) -> tuple[Tensor, Tensor]:
        return self._views[2 * layer], self._views[2 * layer + 1]


def _poison_word(dtype: torch.dtype) -> int:
    """32 bits of NaN."""
    return int(torch.full((4 // dtype.itemsize,), math.nan, dtype=dtype).view(torch.int32))
