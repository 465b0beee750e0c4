"""Attention over the paged cache: which rows of it each token of a step reads, worked out once for all layers.

Tokens are cut into tiles of queries, and tiles of like shape are computed together: a decode step of many slots is a
few calls a layer, and so is a prompt. A tile's padded shape follows from the tile alone, never from its neighbours.
Owns no memory; never reads a position that the tile's own slot did not write.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import num_blocks_for
from model.torch_backend.kv_cache import BLOCK_SIZE, Indices, KVCache

QUERY_TILE = 128  # queries: bounds the mask, and lets the early part of a chunk skip the keys of the late part
MAX_GATHERED = 32 * 1024  # positions copied out of the cache at a time: bounds the memory of a step


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one slot that stand in consecutive rows of a step, at consecutive positions."""

    first_row: int
    first_position: int
    num_tokens: int
    block_ids: Sequence[int]  # those of its slot, from its first position on

    @property
    def end(self) -> int:
        """Positions that its last token sees, which is the first one it does not write."""
        return self.first_position + self.num_tokens

    def tiles(self) -> Iterator["Span"]:
        for start in range(0, self.num_tokens, QUERY_TILE):
            length = min(QUERY_TILE, self.num_tokens - start)
            yield Span(self.first_row + start, self.first_position + start, length, self.block_ids)


@dataclass(frozen=True, slots=True, eq=False)
class TileGroup:
    """B tiles, padded to Q queries and S positions each."""

    query_rows: Tensor  # [B*Q] rows of the step; padding repeats the tile's last
    output_rows: Tensor  # [B*Q] the same, but padding goes to row T, which is cut off
    cache_rows: Tensor  # [B*S]
    mask: Tensor  # [B, 1, G*Q, S], 0 or -inf, to be added to the scores; G queries share a key-value head


@dataclass(frozen=True, slots=True, eq=False)
class CacheView:
    """The cache as one step sees it: where its tokens write, and what each of them reads."""

    cache: KVCache
    rows: Tensor  # [T] where each token's keys and values go
    groups: tuple[TileGroup, ...]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> None:
        self.cache.append(layer, keys, values, self.rows)

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(D)) v of every token over its slot up to itself. [T, H, D] -> [T, H*D]"""
        num_tokens, num_heads, head_dim = query.shape
        assert num_tokens == len(self.rows), (num_tokens, len(self.rows))
        output = query.new_empty(num_tokens + 1, num_heads * head_dim)
        for group in self.groups:
            attended = self._attend_group(layer, query.index_select(0, group.query_rows), group)
            output.index_copy_(0, group.output_rows, attended.to(query.dtype))
        return output[:num_tokens]

    def _attend_group(self, layer: int, query: Tensor, group: TileGroup) -> Tensor:
        """[B*Q, H, D] -> [B*Q, H*D]. The G queries of a key-value head count as further queries, so that its keys are
        not copied for each of them."""
        layout, (batch, _, folded, length) = self.cache.layout, group.mask.shape
        kv_heads, head_dim = layout.num_kv_heads, layout.head_dim
        share = query.shape[1] // kv_heads  # G
        query = query.view(batch, -1, kv_heads, share, head_dim).permute(0, 2, 3, 1, 4)  # [B, K, G, Q, D]
        query = query.reshape(batch, kv_heads, folded, head_dim).to(group.mask.dtype)
        keys, values = (
            x.view(batch, length, kv_heads, head_dim).transpose(1, 2).to(group.mask.dtype)  # [B, K, S, D]
            for x in self.cache.read(layer, group.cache_rows)
        )
        attended = F.scaled_dot_product_attention(query, keys, values, group.mask)  # [B, K, G*Q, D]
        attended = attended.view(batch, kv_heads, share, -1, head_dim).permute(0, 3, 1, 2, 4)  # [B, Q, K, G, D]
        return attended.reshape(len(group.query_rows), -1)


def view_cache(cache: KVCache, spans: Sequence[Span], num_heads: int, dtype: torch.dtype) -> CacheView:
    """What a step of these spans, in the order of their rows, writes and reads. `dtype`: of scores and sums."""
    tiles = defaultdict[tuple[int, int], list[Span]](list)
    for span in spans:
        for tile in span.tiles():
            tiles[_rounded(tile.num_tokens), _rounded(num_blocks_for(tile.end, BLOCK_SIZE))].append(tile)
    num_tokens = sum(span.num_tokens for span in spans)
    share = num_heads // cache.layout.num_kv_heads
    groups = tuple(
        _group(cache, part, (queries, blocks), num_tokens, share, dtype)
        for (queries, blocks), members in tiles.items()
        for part in _parts(members, max(1, MAX_GATHERED // (blocks * BLOCK_SIZE)))
    )
    rows = np.concatenate([_span_rows(cache, span) for span in spans])
    return CacheView(cache, torch.from_numpy(rows).to(cache.device), groups)


def _rounded(number: int) -> int:
    """Up to 1, 2, 3, 4, 6, 8, 12, 16, 24 …: two sizes to a doubling. Few shapes, so that tiles of many lengths go
    together, and at most half as much again for padding."""
    power = 1 << (number - 1).bit_length()
    return power * 3 // 4 if number <= power * 3 // 4 else power


def _parts(tiles: list[Span], size: int) -> Iterator[list[Span]]:
    return (tiles[start : start + size] for start in range(0, len(tiles), size))


def _span_rows(cache: KVCache, span: Span) -> Indices:
    """[num_tokens] the cache's rows of the span's positions."""
    positions = np.arange(span.first_position, span.end)
    blocks = np.asarray(span.block_ids, dtype=np.int64)
    return cache.rows(blocks[positions // BLOCK_SIZE], positions % BLOCK_SIZE)


def _group(
    cache: KVCache, tiles: list[Span], shape: tuple[int, int], num_tokens: int, share: int, dtype: torch.dtype
) -> TileGroup:
    queries, length = np.arange(shape[0]), np.arange(shape[1] * BLOCK_SIZE)  # [Q], [S]
    counts = np.array([[tile.num_tokens] for tile in tiles])  # [B, 1], as the next ones
    first_rows = np.array([[tile.first_row] for tile in tiles])
    ends = np.array([[tile.end] for tile in tiles])
    query_rows = first_rows + np.minimum(queries, counts - 1)  # [B, Q]
    positions = torch.from_numpy(ends - counts + np.minimum(queries, counts - 1)).to(cache.device)  # [B, Q]
    visible = torch.arange(len(length), device=cache.device) <= positions[:, None, None, :, None]  # [B, 1, 1, Q, S]
    mask = torch.zeros(visible.shape, dtype=dtype, device=cache.device).masked_fill_(~visible, -torch.inf)
    cache_rows = np.where(length < ends, _block_rows(cache, tiles, shape[1]), cache.zero_row)  # [B, S]
    return TileGroup(
        query_rows=torch.from_numpy(query_rows.reshape(-1)).to(cache.device),
        output_rows=torch.from_numpy(np.where(queries < counts, query_rows, num_tokens).reshape(-1)).to(cache.device),
        cache_rows=torch.from_numpy(cache_rows.reshape(-1)).to(cache.device),
        mask=mask.expand(-1, -1, share, -1, -1).reshape(len(tiles), 1, -1, len(length)),
    )


def _block_rows(cache: KVCache, tiles: list[Span], num_blocks: int) -> Indices:
    """[B, S] the rows of each tile's blocks, filled up with the zero block."""
    table = np.full((len(tiles), num_blocks), cache.num_blocks, dtype=np.int64)
    for row, tile in zip(table, tiles, strict=True):
        own = tile.block_ids[:num_blocks]
        row[: len(own)] = own
    return cache.rows(table[:, :, None], np.arange(BLOCK_SIZE)).reshape(len(tiles), -1)
