"""Who runs in the next step, with which tokens, in which blocks; and what the step's results mean for them.

Pure bookkeeping on integers. First come, first served: running requests are kept in the order of their arrival, and
what waits arrived later than what runs. In a step every decoding request gets its token first; prefill chunks share
what is left of the token budget. When blocks run out, the youngest running request is set back to waiting and later
recomputed from its tokens, prompt and output alike.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from app.engine.request import FinishReason, Request, TokenEvent
from app.engine.slots import SlotTable
from model.batch import Batch, Chunk, FreedSlot, GrownSlot, OpenedSlot, RunnerInfo, StepOutput, num_blocks_for


@dataclass(frozen=True, slots=True)
class Limits:
    max_num_seqs: int  # slots
    max_num_batched_tokens: int  # tokens in a step, decode and prefill together

    def __post_init__(self) -> None:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least max_num_seqs "
                f"({self.max_num_seqs}): each running request decodes one token a step."
            )


class Emission(NamedTuple):
    """An event, and whose."""

    request: Request
    event: TokenEvent


@dataclass(slots=True)
class _Step:
    """The step under construction."""

    prefill_budget: int
    requests: list[Request] = field(default_factory=list)  # one for each chunk
    admitted: list[Request] = field(default_factory=list)
    opened: list[OpenedSlot] = field(default_factory=list)
    grown: list[GrownSlot] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)


class Scheduler:
    """Owns the queue, the running requests and the slot table. Used by one thread."""

    def __init__(self, info: RunnerInfo, limits: Limits) -> None:
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.slots = SlotTable(limits.max_num_seqs, info.num_blocks, info.block_size)
        self.num_preemptions = 0
        self._limits = limits
        self._freed: list[FreedSlot] = []  # the runner learns of them with the next batch
        self._step = _Step(0)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running or self._freed)

    @property
    def newly_admitted(self) -> list[Request]:
        """Requests that the last scheduled step gives their first slot."""
        return self._step.admitted

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def schedule(self) -> Batch:
        num_decoding = sum(request.is_decoding for request in self.running)
        self._step = _Step(self._limits.max_num_batched_tokens - num_decoding)
        self._continue_running()
        self._admit_waiting()
        freed, self._freed = tuple(self._freed), []
        return Batch(freed, tuple(self._step.opened), tuple(self._step.grown), tuple(self._step.chunks))

    def update(self, batch: Batch, output: StepOutput) -> list[Emission]:
        """Takes over what the last scheduled step gave; finished slots are freed."""
        assert len(output.results) == len(batch.chunks) == len(self._step.requests)
        emissions = []
        for request, chunk, result in zip(self._step.requests, batch.chunks, output.results, strict=True):
            assert request.slot is not None
            request.slot.num_tokens += chunk.num_tokens
            if result.error is not None:
                emissions.append(self.end(request, FinishReason.ERROR, result.error))
            elif chunk.samples:
                request.is_decoding = True
                emissions.append(Emission(request, request.accept(result)))
                if request.finish_reason is not None:
                    self._release(request)
        return emissions

    def fail(self, batch: Batch, error: str) -> list[Emission]:
        """Ends the requests of a step that could not be run. Whether the runner freed what the batch told it to is
        unknown, so it is told again."""
        self._freed = [*batch.freed, *self._freed]
        return [self.end(request, FinishReason.ERROR, error) for request in self._step.requests]

    def end(self, request: Request, reason: FinishReason, error: str | None = None) -> Emission:
        """Ends a request that waits or runs, before its time."""
        if request.slot is None:
            self.waiting.remove(request)
        else:
            self._release(request)
        return Emission(request, request.end(reason, error))

    def end_all(self, reason: FinishReason, error: str | None = None) -> list[Emission]:
        return [self.end(request, reason, error) for request in [*self.running, *self.waiting]]

    # ── the step ──

    def _continue_running(self) -> None:
        for request in self._oldest_first():
            num_tokens = 1 if request.is_decoding else min(_num_pending(request), self._step.prefill_budget)
            if num_tokens and self._make_room(request, num_tokens):
                self._append_chunk(request, num_tokens)

    def _oldest_first(self) -> Iterator[Request]:
        """Running requests; those that are set back meanwhile (from the end) do not come."""
        position = 0
        while position < len(self.running):
            yield self.running[position]
            position += 1

    def _make_room(self, request: Request, num_tokens: int) -> bool:
        """Blocks for `num_tokens` more of `request`, taken from the youngest if need be; False if that is itself."""
        assert request.slot is not None
        num_missing = self.slots.num_missing(request.slot, request.slot.num_tokens + num_tokens)
        while self.slots.num_free_blocks < num_missing:
            youngest = self.running[-1]
            self._set_back(youngest)
            if youngest is request:
                return False
        return True

    def _set_back(self, request: Request) -> None:
        self.num_preemptions += 1
        request.num_preemptions += 1
        self._release(request)
        self.waiting.appendleft(request)

    def _admit_waiting(self) -> None:
        while self.waiting and self._can_admit(self.waiting[0]):
            request = self.waiting.popleft()
            request.slot = self.slots.open(request.request_id)
            self.running.append(request)
            if request.num_preemptions == 0:
                self._step.admitted.append(request)
            self._step.opened.append(
                OpenedSlot(
                    request.slot.slot, request.slot.generation, request.num_prompt_tokens, request.params.sampling
                )
            )
            self._append_chunk(request, min(_num_pending(request), self._step.prefill_budget))

    def _can_admit(self, request: Request) -> bool:
        """Room for all of its tokens and the next, besides what running prefills still need and one more block for
        each running request: an admission must not cause the next preemption."""
        if not self.slots.num_free_slots or not self._step.prefill_budget:
            return False
        promised = sum(self._num_promised(other) for other in self.running)
        needed = num_blocks_for(len(request.token_ids) + 1, self.slots.block_size)
        return needed + promised <= self.slots.num_free_blocks

    def _num_promised(self, request: Request) -> int:
        assert request.slot is not None
        return self.slots.num_missing(request.slot, len(request.token_ids)) + 1

    def _append_chunk(self, request: Request, num_tokens: int) -> None:
        assert request.slot is not None
        slot, start = request.slot, request.slot.num_tokens
        added = self.slots.grow(slot, start + num_tokens)
        if added:
            self._step.grown.append(GrownSlot(slot.slot, added))
        if request.is_decoding:
            self._step.chunks.append(Chunk(slot.slot))
        else:
            token_ids = tuple(request.token_ids[start : start + num_tokens])
            self._step.chunks.append(Chunk(slot.slot, token_ids, start + num_tokens == len(request.token_ids)))
            self._step.prefill_budget -= num_tokens
        self._step.requests.append(request)

    def _release(self, request: Request) -> None:
        """The one place where a slot is freed."""
        assert request.slot is not None
        self._freed.append(FreedSlot(request.slot.slot, self.slots.free(request.slot)))
        request.slot = None
        request.is_decoding = False
        self.running.remove(request)


def _num_pending(request: Request) -> int:
    """Tokens whose keys and values are still to be computed."""
    assert request.slot is not None
    return len(request.token_ids) - request.slot.num_tokens
