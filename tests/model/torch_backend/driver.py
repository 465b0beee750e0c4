"""The least that can drive a runner: it keeps the books of blocks and lengths, as the engine does for a living."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from model.batch import (
    Batch,
    Chunk,
    ChunkResult,
    FreedSlot,
    GrownSlot,
    OpenedSlot,
    Runner,
    SamplingParams,
    num_blocks_for,
)


@dataclass
class Driver:
    """Hands out blocks, last freed first, and remembers what each slot has."""

    runner: Runner
    blocks: dict[int, list[int]] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)
    free_blocks: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.free_blocks = list(range(self.runner.info.num_blocks))

    def step(
        self, chunks: Sequence[Chunk], opened: Sequence[OpenedSlot] = (), freed: Sequence[int] = ()
    ) -> tuple[ChunkResult, ...]:
        frees = tuple(FreedSlot(slot, tuple(self.blocks.pop(slot, ()))) for slot in freed)
        for free in frees:
            self.free_blocks += free.block_ids
        for slot in (*freed, *(o.slot for o in opened)):
            self.lengths[slot] = 0
        grown = tuple(grown for chunk in chunks if (grown := self._grow(chunk)))
        return self.runner.run(Batch(frees, tuple(opened), grown, tuple(chunks))).results

    def _grow(self, chunk: Chunk) -> GrownSlot | None:
        self.lengths[chunk.slot] += chunk.num_tokens
        own = self.blocks.setdefault(chunk.slot, [])
        missing = num_blocks_for(self.lengths[chunk.slot], self.runner.info.block_size) - len(own)
        new = tuple(self.free_blocks.pop() for _ in range(missing))
        own += new
        return GrownSlot(chunk.slot, new) if new else None

    def generate(self, prompt: Sequence[int], params: SamplingParams, num_tokens: int, slot: int = 0) -> list[int]:
        """One request alone, from open to free."""
        (result,) = self.step([Chunk(slot, tuple(prompt))], [OpenedSlot(slot, 1, len(prompt), params)])
        tokens = [result.token_id]
        while len(tokens) < num_tokens:
            (result,) = self.step([Chunk(slot)])
            tokens.append(result.token_id)
        self.step([], freed=[slot])
        assert all(token is not None for token in tokens)
        return [token for token in tokens if token is not None]
