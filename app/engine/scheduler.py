"""Who runs in the next step, with which tokens, in which blocks; and what the step's results mean for them.

Pure bookkeeping on integers. Requests take turns in the order of `Request.turn`: of their arrival, but moved ahead or
back by a fixed time for each step of priority. Whoever waits gains on all who come later, so nothing starves; and
between two requests the order never changes. In a step every decoding request gets its token first; prefill chunks
share what is left of the token budget. When blocks run out, the running request whose turn is last is set back to
waiting, and later recomputed from its tokens, prompt and output alike.

No livelock: of all open requests take the one whose turn is first. Where it runs, it is never set back, for blocks are
taken from the last, and alone it has room enough; so each step brings it nearer to its end. Where it waits, nobody is
admitted before it, while those that run end or are set back behind it; at the latest when none is left, it is admitted.
Only so many can still come whose turn is before a given one. A request that has to wait for its constraint's mask sits
steps out: it keeps its slot, and its blocks as long as nobody before it needs them; what bounds that wait is whoever
computes the mask.
"""

import math
import time
from bisect import insort_left, insort_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

from app.engine.choice import Choice, Choices
from app.engine.limits import Limits
from app.engine.request import DEADLINE, FinishReason, Request, TokenEvent
from app.engine.slots import SlotTable
from app.engine.step import Step
from model.batch import Batch, Chunk, ChunkResult, FreedSlot, RunnerInfo, StepOutput, num_blocks_for


class Emission(NamedTuple):
    """An event, and whose."""

    request: Request
    event: TokenEvent


class Scheduler:
    """Owns the queue, the running requests and the slot table. Used by one thread. `ask_mask` as Choices has it."""

    def __init__(
        self,
        info: RunnerInfo,
        limits: Limits,
        ask_mask: Callable[[Request, int | None], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.waiting: list[Request] = []  # both in the order of their turns
        self.running: list[Request] = []
        self.slots = SlotTable(limits.max_num_seqs, info.num_blocks, info.block_size)
        self.num_preemptions = 0
        self.choices = Choices(ask_mask)
        self.next_deadline = math.inf  # no open request has an earlier one
        self._info = info
        self._limits = limits
        self._clock = clock
        self._freed: list[FreedSlot] = []  # the runner learns of them with the next batch
        self._decode_chunks = tuple(Chunk(slot) for slot in range(limits.max_num_seqs))
        self._step = self._new_step()

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running or self._freed)

    @property
    def newly_admitted(self) -> list[Request]:
        """Requests that the last scheduled step gives their first slot."""
        return self._step.admitted

    def add(self, request: Request) -> None:
        insort_right(self.waiting, request, key=_turn)
        self.next_deadline = min(self.next_deadline, request.deadline)
        self.choices.add(request)

    def schedule(self) -> Batch:
        """What can be done now; an empty batch if that is nothing."""
        self._step = self._new_step()
        self._continue_running()
        self._admit_waiting()
        freed, self._freed = tuple(self._freed), []
        return self._step.batch(freed)

    def update(self, batch: Batch, output: StepOutput) -> list[Emission]:
        """Takes over what the last scheduled step gave; finished slots are freed."""
        assert len(output.results) == len(batch.chunks) == len(self._step.requests)
        emissions: list[Emission] = []
        for request, chunk, result in zip(self._step.requests, batch.chunks, output.results, strict=True):
            assert request.slot is not None
            start = request.slot.num_tokens
            request.slot.num_tokens += chunk.num_tokens
            if result.error is not None:
                emissions.append(self.end(request, FinishReason.ERROR, result.error))
                continue
            if not request.is_decoding and (event := request.read_prompt(start, result)):
                emissions.append(Emission(request, event))
            if chunk.samples:
                emissions.append(self._accept(request, result))
            elif request.slot.num_tokens == len(request.token_ids) and not request.samples:
                emissions.append(self.end(request, FinishReason.LENGTH))
        return emissions

    def fail(self, batch: Batch, error: str) -> list[Emission]:
        """Ends the requests of a step that could not be run. Whether the runner freed what the batch told it to is
        unknown, so it is told again."""
        self._freed = [*batch.freed, *self._freed]
        return [self.end(request, FinishReason.ERROR, error) for request in self._step.requests]

    def end(
        self, request: Request, reason: FinishReason, error: str | None = None, stop_reason: str | None = None
    ) -> Emission:
        """Ends a request that waits or runs, before its time."""
        return self._finish(request, request.end(reason, error, stop_reason))

    def end_all(self, reason: FinishReason, error: str | None = None) -> list[Emission]:
        return [self.end(request, reason, error) for request in [*self.running, *self.waiting]]

    def end_overdue(self) -> list[Emission]:
        """Ends the requests whose deadline has passed."""
        now = self._clock()
        if now < self.next_deadline:
            return []
        overdue = [request for request in [*self.running, *self.waiting] if request.deadline <= now]
        emissions = [self.end(request, FinishReason.LENGTH, stop_reason=DEADLINE) for request in overdue]
        left = [request.deadline for request in [*self.running, *self.waiting]]
        self.next_deadline = min(left, default=math.inf)
        return emissions

    # ── the step ──

    def _new_step(self) -> Step:
        num_decoding = sum(request.is_decoding for request in self.running)
        prefill_budget = self._limits.max_num_batched_tokens - num_decoding
        return Step(self.slots, self._decode_chunks, self._info.vocab_size, prefill_budget)

    def _continue_running(self) -> None:
        for request in self._in_turn():
            choice = self.choices.get(request)
            num_tokens = self._num_tokens_now(request, choice)
            if num_tokens and self._make_room(request, num_tokens):
                self._step.append(request, num_tokens, choice)

    def _in_turn(self) -> Iterator[Request]:
        """Running requests; those that are set back meanwhile (from the end) do not come."""
        position = 0
        while position < len(self.running):
            yield self.running[position]
            position += 1

    def _num_tokens_now(self, request: Request, choice: Choice | None) -> int:
        """Tokens that `request` can be fed in this step. Without its mask, all but the one that samples."""
        is_ready = choice is None or choice.is_ready
        if request.is_decoding:
            return int(is_ready)
        num_pending = _num_pending(request)
        if request.samples and not is_ready:
            num_pending -= 1
        return min(num_pending, self._step.prefill_budget)

    def _make_room(self, request: Request, num_tokens: int) -> bool:
        """Blocks for `num_tokens` more of `request`, of the last in turn if need be; False if that is itself."""
        assert request.slot is not None
        num_missing = self.slots.num_missing(request.slot, request.slot.num_tokens + num_tokens)
        while self.slots.num_free_blocks < num_missing:
            last = self.running[-1]
            self._set_back(last)
            if last is request:
                return False
        return True

    def _set_back(self, request: Request) -> None:
        """Of those that have the same turn it was the last to run, and so comes before all of them that wait."""
        self.num_preemptions += 1
        request.num_preemptions += 1
        self._release(request)
        insort_left(self.waiting, request, key=_turn)

    def _admit_waiting(self) -> None:
        while self.waiting and self._can_admit(self.waiting[0]):
            request = self.waiting.pop(0)
            request.slot = self.slots.open(request.request_id)
            insort_right(self.running, request, key=_turn)
            if request.admission_time is None:
                self._welcome(request)
            choice = self.choices.get(request)
            if num_tokens := self._num_tokens_now(request, choice):
                self._step.append(request, num_tokens, choice)

    def _welcome(self, request: Request) -> None:
        """To its first slot."""
        request.admission_time = self._clock()
        self._step.admitted.append(request)
        if request.params.constraint is not None:
            self.choices.move_on(request, None)

    def _can_admit(self, request: Request) -> bool:
        """Room for all of its tokens and the next, besides what running prefills still need and one more block for
        each running request: an admission must not cause the next preemption."""
        if not self.slots.num_free_slots or not self._step.prefill_budget:
            return False
        promised = sum(self._num_promised(other) for other in self.running)
        num_tokens = len(request.token_ids) + request.samples
        return num_blocks_for(num_tokens, self.slots.block_size) + promised <= self.slots.num_free_blocks

    def _num_promised(self, request: Request) -> int:
        assert request.slot is not None
        return self.slots.num_missing(request.slot, len(request.token_ids)) + 1

    # ── its results ──

    def _accept(self, request: Request, result: ChunkResult) -> Emission:
        if not request.is_decoding:
            request.is_decoding = True
            request.first_token_time = request.first_token_time or self._clock()
        event = request.accept(result)
        if event.finish_reason is not None:
            return self._finish(request, event)
        if request.params.constraint is not None:
            self.choices.move_on(request, event.token_id)
        return Emission(request, event)

    def _finish(self, request: Request, event: TokenEvent) -> Emission:
        """Takes back what an ended request has: the one place where it leaves, whatever ended it."""
        last = request.last(event, self._clock(), self._info.block_bytes)
        if request.slot is None:
            self.waiting.remove(request)
        else:
            self._release(request)
        self.choices.drop(request)
        return Emission(request, last)

    def _release(self, request: Request) -> None:
        """The one place where a slot is freed."""
        assert request.slot is not None
        request.max_blocks = max(request.max_blocks, len(request.slot.block_ids))
        self._freed.append(FreedSlot(request.slot.slot, self.slots.free(request.slot)))
        request.slot = None
        request.is_decoding = False
        self.running.remove(request)


def _num_pending(request: Request) -> int:
    """Tokens whose keys and values are still to be computed."""
    assert request.slot is not None
    return len(request.token_ids) - request.slot.num_tokens


def _turn(request: Request) -> float:
    return request.turn
