"""The engine thread and the step.

Two crossings and no more: calls go in through the inbox and are made on the engine thread between two steps; events go
out with one `call_soon_threadsafe` a step. The scheduler and the runner are touched by the engine thread alone.
"""

import asyncio
import faulthandler
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from app.engine.admission import Admission
from app.engine.detokenizer import Vocabulary
from app.engine.errors import EngineDead, ShuttingDown
from app.engine.failures import Failures
from app.engine.inbox import Inbox
from app.engine.limits import Limits, refuse_too_long, room_for
from app.engine.masks import MaskThreads, failure
from app.engine.report import RequestView, SlotsSnapshot, StepReport, StepTimes, report, snapshot, views_of
from app.engine.request import Emission, FinishReason, Request, Submission, TokenEvent
from app.engine.scheduler import Scheduler
from app.engine.stream import EventStream, call_on, deliver
from app.engine.swaps import Swaps
from model.batch import Batch, Runner

logger = logging.getLogger(__name__)

STOPPED = "The server is shutting down."


class Engine:
    """Accepts requests on the event loop, runs them together on a thread of its own, and streams back what they give.

    `observe` is called on the engine thread after every step and every change of the queue; `on_death` when the thread
    ends unasked, after every open request has had its error.
    """

    def __init__(
        self,
        runner: Runner,
        vocabulary: Vocabulary,
        limits: Limits,
        observe: Callable[[StepReport], None] = lambda _: None,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self.info = runner.info
        self._runner = runner
        self._vocabulary = vocabulary
        self._limits = limits
        self._observe = observe
        self._on_death = on_death
        self._masks = MaskThreads(lambda request, mask: self._inbox.put(partial(self._take_mask, request, mask)))
        self._scheduler = Scheduler(runner.info, limits, self._masks.ask)
        self.admission = Admission(limits)
        self._streams: dict[Request, EventStream] = {}
        self._inbox = Inbox()
        self.swaps = Swaps(self._inbox, self._scheduler, runner.info, self._publish)
        self._is_stopping = False
        self._is_given_up = False
        self._is_idle = True  # nothing can run before a call comes in, or a deadline
        self._is_waiting = True  # for these
        self._num_steps = 0
        self._failures = Failures()
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    # ── on the event loop ──

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends every open request with an error and the thread with it; waits for the step that is running."""
        self._is_stopping = True
        self._inbox.put(lambda: None)
        if self._thread.is_alive() and not self._is_given_up:
            self._thread.join()

    async def drain(self, max_seconds: float) -> None:
        """Accepts nothing more, and waits until all that was accepted has ended, or the engine, or the time is over."""
        self.admission.close()
        if num_open := self.admission.num_inside:
            logger.info("draining: %d requests have %g s to finish", num_open, max_seconds)
        deadline = time.monotonic() + max_seconds
        while self.admission.num_inside and self.is_alive and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_stopping and not self._is_given_up

    def progress(self) -> int | None:
        """Grows with every step; None while there is nothing to run."""
        return None if self._is_waiting or not self.is_alive else self._num_steps

    def raise_if_not_ready(self) -> None:
        """Raises EngineDead or ShuttingDown where a request would be refused for that."""
        if not self.is_alive:
            raise EngineDead
        if not self.admission.is_open:
            raise ShuttingDown

    def room_for(self, num_prompt_tokens: int) -> int:
        """The most tokens that a request with such a prompt may generate; less than 0: it cannot even be read."""
        return room_for(self.info, num_prompt_tokens)

    def submit(self, submissions: Sequence[Submission]) -> EventStream:
        """Accepts all of them or none; raises RequestTooLong, QueueFull, ShuttingDown or EngineDead."""
        for submission in submissions:
            refuse_too_long(self.info, submission)
        now, max_seconds = time.monotonic(), self._limits.max_seconds
        requests = [Request(one, index, self._vocabulary, now, max_seconds) for index, one in enumerate(submissions)]
        stream = EventStream(len(requests), abort=partial(self._inbox.put, partial(self._abort, requests)))
        with self._inbox.open():
            self.admission.enter(requests)
            self._streams |= dict.fromkeys(requests, stream)
            self._inbox.put(partial(self._add, requests))
        return stream

    async def slots(self) -> SlotsSnapshot:
        """Every slot. Raises EngineDead, as all that follow."""
        return await self._inbox.ask(lambda: snapshot(self._scheduler, self.info.block_bytes, time.monotonic()))

    async def requests(self, owner: str) -> tuple[RequestView, ...]:
        """The open requests of one owner."""
        return await self._inbox.ask(lambda: views_of(self._scheduler, owner, time.monotonic()))

    async def cancel(self, call_id: str, owner: str) -> int:
        """Ends what is open of a call, if it is the owner's; returns how many requests that were."""
        return await self._inbox.ask(lambda: self._cancel(call_id, owner))

    # ── on the watchdog's thread ──

    def give_up(self) -> None:
        """The step that is running is taken to be stuck. Everybody is told; nobody waits for it any more."""
        faulthandler.dump_traceback()  # where it is stuck: places in the code of every thread, and no values
        self._is_given_up = True
        self._close("The engine is stuck; see the server's log.")

    # ── on the engine thread ──

    def _main(self) -> None:
        try:
            while self.is_alive:
                self._drain()
                self._runner = self.swaps.due(self._runner)
                self.step()
            ends = [self._scheduler.end(one, FinishReason.SHUTDOWN, STOPPED) for one in self._scheduler.open_requests]
            self._publish(ends)
            self._runner.run(self._scheduler.schedule())  # what they held is destroyed, too
        finally:
            self._close(STOPPED if self._is_stopping else "The engine failed; see the server's log.")

    def step(self) -> None:
        """Schedule, run, update, publish."""
        self._num_steps += 1
        started = time.monotonic()
        batch = self._scheduler.schedule()
        waited = self._take_in(started)
        self._is_idle = not batch.chunks and not batch.freed
        if not self._is_idle:
            emissions = self._run(batch)
            self._publish(emissions, StepTimes(started, time.monotonic()), waited)
        elif waited:
            self._publish([], queue_seconds=waited)

    def _take_in(self, now: float) -> tuple[float, ...]:
        """Who was given the first slot is no longer queued; how long each has waited."""
        admitted = self._scheduler.newly_admitted
        self.admission.started(admitted)
        return tuple(now - request.arrival_time for request in admitted)

    def _run(self, batch: Batch) -> list[Emission]:
        try:
            output = self._runner.run(batch)
        except Exception as error:  # whatever a backend throws
            self._failures.add()
            if not batch.chunks or self._failures.are_hopeless:
                raise  # a runner that cannot even free is of no more use
            logger.exception("a step of %d requests failed", len(batch.chunks))
            return self._scheduler.fail(batch, f"The model failed in this step: {type(error).__name__}.")
        if batch.chunks:  # a step that only frees proves nothing
            self._failures.clear()
        return self._scheduler.update(batch, output)

    def _drain(self) -> None:
        """Makes the calls that came in, and ends what is overdue; waits for one of these where nothing can run."""
        if self._is_idle:
            self._is_waiting = True
            self._inbox.wait(self._scheduler.next_deadline - time.monotonic())
            self._is_waiting = False
        self._inbox.make_calls()
        if overdue := self._scheduler.end_overdue():
            self._publish(overdue)

    def _add(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._scheduler.add(request)
        self._publish([])

    def _abort(self, requests: Sequence[Request]) -> None:
        open_requests = [request for request in requests if request.finish_reason is None]
        self._publish([self._scheduler.end(request, FinishReason.ABORT) for request in open_requests])

    def _cancel(self, call_id: str, owner: str) -> int:
        open_requests = self._scheduler.open_requests
        meant = [request for request in open_requests if (request.call_id, request.owner) == (call_id, owner)]
        self._abort(meant)
        return len(meant)

    def _take_mask(self, request: Request, mask: Future[bytes]) -> None:
        error = mask.exception()
        if error is None:
            self._scheduler.choices.take(request, mask.result())
        elif request.finish_reason is None:
            self._publish([self._scheduler.end(request, FinishReason.ERROR, failure(error))])

    def _publish(
        self, emissions: Sequence[Emission], times: StepTimes | None = None, queue_seconds: tuple[float, ...] = ()
    ) -> None:
        self._scheduler.slots.check_sum()
        deliveries = defaultdict(list)
        for request, event in emissions:
            stream = self._streams[request] if event.finish_reason is None else self._streams.pop(request)
            deliveries[stream.loop].append((stream, event))
        for loop, events in deliveries.items():
            call_on(loop, partial(deliver, events))
        self.admission.left([request for request, event in emissions if event.finish_reason is not None])
        self._observe(report(self._scheduler, emissions, times, queue_seconds))

    def _close(self, error: str) -> None:
        """Nothing enters any more, and whoever still waits hears of it. After a death no state but the list of who
        waits is to be trusted."""
        if not self._inbox.close():
            return
        self._masks.close()
        for request, stream in list(self._streams.items()):
            event = TokenEvent(request.index, finish_reason=FinishReason.SHUTDOWN, error=error)
            last = request.last(event, time.monotonic(), self.info.block_bytes)
            call_on(stream.loop, partial(stream.deliver, last))
        self._inbox.tell_who_asked(EngineDead(error))
        if not self._is_stopping:
            self._on_death()
