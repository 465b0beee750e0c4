"""Who runs in the next step, with which tokens, in which blocks; and what the step's results mean for them.

Pure bookkeeping on integers. Requests take turns in the order of `Request.turn`: of their arrival, but moved ahead or
back by a fixed time for each step of priority. Whoever waits gains on all who come later, so nothing starves; and
between two requests the order never changes. In a step every decoding request gets its token first; prefill chunks
share what is left of the token budget. When blocks run out, the running request whose turn is last is set back to
waiting, and later recomputed from its tokens, prompt and output alike.

No livelock: of all open requests take the one whose turn is first. Where it runs, it is never set back, for blocks are
taken from the last, and alone it has room enough; so each step brings it nearer to its end. Where it waits, nobody is
admitted before it, while those that run end or are set back behind it; at the latest when none is left, it is admitted.
Only so many can still come whose turn is before a given one. A request that waits for its constraint's mask sits steps
out: it keeps its slot, and its blocks as long as nobody before it needs them. Whoever computes masks bounds that wait.

A step that fails makes suspects of its requests. Each is tried alone, recomputed from its tokens, with nobody else in a
slot: who fails ends, who gets a token goes on as before.
"""

import math
import time
from bisect import insort
from collections.abc import Callable

from app.engine.choice import Choices
from app.engine.limits import Limits
from app.engine.request import DEADLINE, Emission, FinishReason, Request, TokenEvent
from app.engine.room import can_admit, next_in_turn, num_tokens_now
from app.engine.slots import SlotTable
from app.engine.step import Step
from model.batch import Batch, Chunk, ChunkResult, FreedSlot, RunnerInfo, StepOutput

MAX_FAULTS = 8  # failed steps that a request may have been in: a fault that only company brings out is nobody's alone


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
        self.num_preemptions = self.num_swaps = 0  # swaps: of the runner
        self.admits_new = True  # else only those who have begun
        self._num_added = 0
        self.choices = Choices(ask_mask)
        self.next_deadline = math.inf  # no open request has an earlier one
        self._info = info
        self._limits = limits
        self._clock = clock
        self._suspects: list[Request] = []  # of a step that failed, those not yet tried alone
        self._freed: list[FreedSlot] = []  # the runner learns of them with the next batch
        self._decode_chunks = tuple(Chunk(slot) for slot in range(limits.max_num_seqs))
        self._step = self._new_step()

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running or self._freed)

    @property
    def has_begun(self) -> bool:
        """Something of what the runner has computed is still needed, or not yet destroyed."""
        return bool(self.running or self._freed or next_in_turn(self.waiting, only_begun=True))

    @property
    def open_requests(self) -> list[Request]:
        return [*self.running, *self.waiting]

    @property
    def newly_admitted(self) -> list[Request]:
        """Requests that the last scheduled step gives their first slot."""
        return self._step.admitted

    def add(self, request: Request) -> None:
        self._num_added += 1
        request.number = self._num_added
        insort(self.waiting, request, key=_turn)
        self.next_deadline = min(self.next_deadline, request.deadline)
        self.choices.add(request)

    def schedule(self) -> Batch:
        """What can be done now; an empty batch if that is nothing."""
        self._step = self._new_step()
        if self._suspects:
            self._try_alone(self._suspects[0])
        else:
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
        """Takes over that the last scheduled step could not be run: ends its request, or makes suspects of several.
        Whether the runner freed what the batch told it to is unknown, so it is told again."""
        self._freed = [*batch.freed, *self._freed]
        emissions: list[Emission] = []
        for request in self._step.requests:
            request.num_faults += 1
            if len(self._step.requests) == 1 or request.num_faults > MAX_FAULTS:
                emissions.append(self.end(request, FinishReason.ERROR, error))
            else:
                self._send_back(request)
                self._suspects.append(request)
        return emissions

    def end(
        self, request: Request, reason: FinishReason, error: str | None = None, stop_reason: str | None = None
    ) -> Emission:
        """Ends a request that waits or runs, before its time."""
        return self._finish(request, request.end(reason, error, stop_reason))

    def end_overdue(self) -> list[Emission]:
        """Ends the requests whose deadline has passed."""
        now = self._clock()
        if now < self.next_deadline:
            return []
        overdue = [request for request in self.open_requests if request.deadline <= now]
        emissions = [self.end(request, FinishReason.LENGTH, stop_reason=DEADLINE) for request in overdue]
        self.next_deadline = min((request.deadline for request in self.open_requests), default=math.inf)
        return emissions

    # ── the step ──

    def _new_step(self) -> Step:
        prefill_budget = self._limits.max_num_batched_tokens - sum(request.is_decoding for request in self.running)
        return Step(self.slots, self._decode_chunks, self._info.vocab_size, prefill_budget)

    def _continue_running(self) -> None:
        position = 0
        while position < len(self.running):  # those that are set back meanwhile, from the end, do not come
            self._append(self.running[position])
            position += 1

    def _try_alone(self, suspect: Request) -> None:
        for other in [request for request in reversed(self.running) if request is not suspect]:
            self._send_back(other)
        if suspect.slot is None:
            self._admit(suspect)
        self._append(suspect)

    def _append(self, request: Request) -> None:
        """What can be done of a running request, as a chunk of the step."""
        choice = self.choices.get(request)
        num_tokens = num_tokens_now(request, choice, self._step.prefill_budget)
        if num_tokens and self._make_room(request, num_tokens):
            self._step.append(request, num_tokens, choice)

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
        self.num_preemptions += 1
        request.num_preemptions += 1
        self._send_back(request)

    def _send_back(self, request: Request) -> None:
        self._release(request)
        insort(self.waiting, request, key=_turn)

    def _admit_waiting(self) -> None:
        while self._step.prefill_budget and (request := next_in_turn(self.waiting, only_begun=not self.admits_new)):
            if not can_admit(request, self.running, self.slots):
                return
            self._admit(request)
            self._append(request)

    def _admit(self, request: Request) -> None:
        self.waiting.remove(request)
        request.slot = self.slots.open(request.request_id)
        insort(self.running, request, key=_turn)
        if request.admission_time is None:  # it is its first slot
            request.admission_time = self._clock()
            request.num_swaps = self.num_swaps
            self._step.admitted.append(request)
            if request.params.constraint is not None:
                self.choices.move_on(request, None)

    # ── its results ──

    def _accept(self, request: Request, result: ChunkResult) -> Emission:
        if not request.is_decoding:
            request.is_decoding = True
            request.first_token_time = request.first_token_time or self._clock()
        self._acquit(request)
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
        self._acquit(request)
        return Emission(request, last)

    def _acquit(self, request: Request) -> None:
        if request in self._suspects:
            self._suspects.remove(request)

    def _release(self, request: Request) -> None:
        """The one place where a slot is freed."""
        assert request.slot is not None
        request.max_blocks = max(request.max_blocks, len(request.slot.block_ids))
        self._freed.append(FreedSlot(request.slot.slot, self.slots.free(request.slot)))
        request.slot = None
        request.is_decoding = False
        self.running.remove(request)


def _turn(request: Request) -> tuple[float, int]:
    return request.turn, request.number
