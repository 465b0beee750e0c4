"""What the runner remembers of each open slot. All of it can be rebuilt from the batches it was given."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from model.batch import Batch, Chunk, OpenedSlot
from model.torch_backend.attention import Span
from model.torch_backend.edits import SamplingRow
from model.torch_backend.kv_cache import BLOCK_SIZE
from model.torch_backend.penalties import TokenCounts, has_penalties
from model.torch_backend.pooling import PromptMean


@dataclass(slots=True)
class Slot:
    opened: OpenedSlot
    counts: TokenCounts | None  # where the slot has penalties
    mean: PromptMean | None  # where the slot pools
    block_ids: list[int] = field(default_factory=list)
    num_tokens: int = 0  # whose keys and values are written
    last_token_id: int | None = None  # sampled, and not yet fed in
    checksums: list[int] = field(default_factory=list)  # of the full blocks, where isolation is checked …
    num_checked: int = 0  # … and how often one of them was looked at

    @classmethod
    def open(cls, opened: OpenedSlot) -> "Slot":
        return cls(
            opened,
            counts=TokenCounts(opened.num_prompt_tokens) if has_penalties(opened.sampling) else None,
            mean=PromptMean(opened.num_prompt_tokens) if opened.pools else None,
        )

    def tokens_of(self, chunk: Chunk) -> Sequence[int]:
        if chunk.token_ids:
            return chunk.token_ids
        assert self.last_token_id is not None, f"slot {chunk.slot} has sampled no token to feed"
        return (self.last_token_id,)

    def span(self, first_row: int, num_tokens: int) -> Span:
        """Where its next tokens go."""
        assert self.num_tokens + num_tokens <= len(self.block_ids) * BLOCK_SIZE, "the slot was not grown enough"
        return Span(first_row, self.num_tokens, num_tokens, self.block_ids)

    def append(self, token_ids: Sequence[int]) -> None:
        """Their keys and values are written."""
        if self.counts is not None:
            self.counts.extend(token_ids)
        self.num_tokens += len(token_ids)
        self.last_token_id = None

    def sampling_row(self, chunk: Chunk) -> SamplingRow:
        """For the token behind those it has, the last of which are the chunk's."""
        num_output = max(0, self.num_tokens - self.opened.num_prompt_tokens)
        return SamplingRow(self.opened.sampling, self.num_tokens, num_output, self.counts, chunk.allowed, chunk.biases)


class SlotTable:
    """Slots by number, and who owns each block: a block has one owner, or none."""

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}
        self._owners: dict[int, int] = {}  # block id -> slot

    def __getitem__(self, slot: int) -> Slot:
        return self._slots[slot]

    def all(self) -> Iterable[Slot]:
        return self._slots.values()

    def free(self, batch: Batch) -> list[int]:
        """Forgets the freed slots, known or not, and returns their blocks, whose contents are to be destroyed."""
        block_ids: list[int] = []
        for freed in batch.freed:
            known = self._slots.pop(freed.slot, None)
            assert known is None or set(known.block_ids) <= set(freed.block_ids), f"slot {freed.slot} would keep blocks"
            for block_id in freed.block_ids:
                owner = self._owners.pop(block_id, freed.slot)
                assert owner == freed.slot, f"slot {freed.slot} frees block {block_id} of slot {owner}"
            block_ids += freed.block_ids
        return block_ids

    def grow(self, batch: Batch) -> None:
        """Opens and grows slots as the batch says."""
        for opened in batch.opened:
            assert opened.slot not in self._slots, f"slot {opened.slot} is open already"
            self._slots[opened.slot] = Slot.open(opened)
        for grown in batch.grown:
            for block_id in grown.block_ids:
                owner = self._owners.setdefault(block_id, grown.slot)
                assert owner == grown.slot, f"slot {grown.slot} is given block {block_id} of slot {owner}"
            self._slots[grown.slot].block_ids += grown.block_ids
