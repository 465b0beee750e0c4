"""The step under construction: chunk by chunk, with the blocks that each needs, until it is a batch."""

from collections.abc import Sequence

from app.engine.choice import Choice
from app.engine.request import Request
from app.engine.slots import Slot, SlotTable
from model.batch import Batch, Chunk, FreedSlot, GrownSlot, OpenedSlot


class Step:
    """`requests` has one for each chunk, `admitted` those that were given their first slot. `decode_chunks` are those
    of each slot number: the same in every step, unless there is a choice to be made."""

    def __init__(self, slots: SlotTable, decode_chunks: Sequence[Chunk], vocab_size: int, prefill_budget: int) -> None:
        self.prefill_budget = prefill_budget  # tokens of prompts that it has room for
        self.requests: list[Request] = []
        self.admitted: list[Request] = []
        self._slots = slots
        self._decode_chunks = decode_chunks
        self._vocab_size = vocab_size
        self._opened: list[OpenedSlot] = []
        self._grown: list[GrownSlot] = []
        self._chunks: list[Chunk] = []

    def append(self, request: Request, num_tokens: int, choice: Choice | None) -> None:
        """A chunk of `request`, for which there are blocks enough. `choice`: unless any token may come of it."""
        slot = request.slot
        assert slot is not None
        if slot.num_tokens == 0:
            self._open(request, slot)
        added = self._slots.grow(slot, slot.num_tokens + num_tokens)
        if added:
            self._grown.append(GrownSlot(slot.slot, added))
        if request.is_decoding:
            chunk = self._decode_chunks[slot.slot] if choice is None else self._choosing(slot, choice)
        else:
            chunk = self._prefill(request, slot, num_tokens, choice)
        self._chunks.append(chunk)
        self.requests.append(request)

    def batch(self, freed: tuple[FreedSlot, ...]) -> Batch:
        return Batch(freed, tuple(self._opened), tuple(self._grown), tuple(self._chunks))

    def _open(self, request: Request, slot: Slot) -> None:
        params, wants = request.params, request.wants_pooled
        who = slot.slot, slot.generation
        self._opened.append(OpenedSlot(*who, request.num_prompt_tokens, params.sampling, wants, params.adapter))

    def _prefill(self, request: Request, slot: Slot, num_tokens: int, choice: Choice | None) -> Chunk:
        self.prefill_budget -= num_tokens
        start, end = slot.num_tokens, slot.num_tokens + num_tokens
        token_ids, targets = tuple(request.token_ids[start:end]), request.targets(start, num_tokens)
        samples = request.samples and end == len(request.token_ids)
        if choice is None or not samples:
            return Chunk(slot.slot, token_ids, samples, targets=targets)
        return self._choosing(slot, choice, token_ids, targets)

    def _choosing(
        self, slot: Slot, choice: Choice, token_ids: tuple[int, ...] = (), targets: tuple[int, ...] = ()
    ) -> Chunk:
        """A chunk that samples, though not any token."""
        allowed, biases = choice.allowed(self._vocab_size), choice.biases()
        return Chunk(slot.slot, token_ids, allowed=allowed, biases=biases, targets=targets)
