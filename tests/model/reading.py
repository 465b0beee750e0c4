"""What a runner computes, for tests: the logits behind given tokens, fed at once or one by one, and greedy answers."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from model.batch import Batch, Chunk, FreedSlot, GrownSlot, OpenedSlot, Runner, SamplingParams, num_blocks_for

GREEDY = SamplingParams(temperature=0.0)


class ReadableRunner(Runner, Protocol):
    def logits(self, chunks: Sequence[Chunk]) -> Any: ...  # [S, V], a tensor or an array


class Reader:
    """Slots of a runner, opened with room for `max_tokens`, one for each prompt; each perhaps with an adapter."""

    def __init__(
        self, runner: ReadableRunner, num_slots: int, max_tokens: int, adapters: Sequence[int] | None = None
    ) -> None:
        self._runner = runner
        size = num_blocks_for(max_tokens, runner.info.block_size)
        self._blocks = [tuple(range(slot * size, (slot + 1) * size)) for slot in range(num_slots)]
        numbers = [0] * num_slots if adapters is None else adapters
        opened = tuple(OpenedSlot(slot, 1, 1, GREEDY, adapter=number) for slot, number in enumerate(numbers))
        grown = tuple(GrownSlot(slot, blocks) for slot, blocks in enumerate(self._blocks))
        runner.run(Batch(opened=opened, grown=grown))

    def feed(self, *token_ids: Sequence[int]) -> Tensor:
        """One chunk for each slot, in one step: logits [slots, V] behind its last token."""
        chunks = [Chunk(slot, tuple(tokens)) for slot, tokens in enumerate(token_ids)]
        return torch.as_tensor(self._runner.logits(chunks)).cpu()

    def close(self) -> None:
        self._runner.run(Batch(freed=tuple(FreedSlot(slot, blocks) for slot, blocks in enumerate(self._blocks))))


def read_one_by_one(runner: ReadableRunner, token_ids: Sequence[int], adapter: int = 0) -> Tensor:
    """Logits [T, V] behind each token, each fed in a step of its own."""
    reader = Reader(runner, 1, len(token_ids), [adapter])
    rows = [reader.feed([token]) for token in token_ids]
    reader.close()
    return torch.cat(rows)


def answer_greedily(
    runner: ReadableRunner, prompts: Sequence[Sequence[int]], num_tokens: int, adapters: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """All prompts together, each whole in the first step: the chosen tokens [B, N] and the logits [B, N, V]."""
    reader = Reader(runner, len(prompts), max(map(len, prompts)) + num_tokens, adapters)
    logits = [reader.feed(*prompts)]
    while len(logits) < num_tokens:
        logits.append(reader.feed(*logits[-1].argmax(-1, keepdim=True).tolist()))
    reader.close()
    stacked = torch.stack(logits, 1)
    return stacked.argmax(-1), stacked
