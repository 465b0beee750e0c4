"""The engine thread, its inbox, and the step. The only file of the engine with concurrency in it, but for the threads
that compute masks.

Two crossings and no more: calls go in through the inbox and are made on the engine thread between two steps; events go
out with one `call_soon_threadsafe` a step. The scheduler and the runner are touched by the engine thread alone.
"""

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from app.engine.detokenizer import Vocabulary
from app.engine.errors import EngineDead
from app.engine.limits import Limits, refuse_too_long, room_for
from app.engine.masks import MaskThreads, failure
from app.engine.report import RequestView, SlotsSnapshot, StepReport, StepTimes, report, snapshot, views_of
from app.engine.request import FinishReason, Request, Submission, TokenEvent
from app.engine.scheduler import Emission, Scheduler
from app.engine.stream import EventStream, call_on, deliver
from model.batch import Batch, Runner

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

_LONGEST_WAIT_S = 3600.0  # a queue cannot wait for ever


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
        self._observe = observe
        self._on_death = on_death
        self._masks = MaskThreads(self._deliver_mask)
        self._scheduler = Scheduler(runner.info, limits, self._masks.ask)
        self._streams: dict[Request, EventStream] = {}
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._questions: set[asyncio.Future[Any]] = set()
        self._closing = threading.Lock()  # held to close, and to ask for something: nobody asks after the end
        self._is_closed = False
        self._is_stopping = False
        self._is_idle = True  # nothing can run before a call comes in, or a deadline
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    # ── on the event loop ──

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends every open request with an error and the thread with it; waits for the step that is running."""
        self._is_stopping = True
        self._inbox.put(lambda: None)
        if self._thread.is_alive():
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_stopping

    def room_for(self, num_prompt_tokens: int) -> int:
        """The most tokens that a request with such a prompt may generate; less than 0: it cannot even be read."""
        return room_for(self.info, num_prompt_tokens)

    def submit(self, submissions: Sequence[Submission]) -> EventStream:
        """Accepts all of them or none; raises RequestTooLong or EngineDead."""
        for submission in submissions:
            refuse_too_long(self.info, submission)
        now = time.monotonic()
        requests = [Request(one, index, self._vocabulary, now) for index, one in enumerate(submissions)]
        stream = EventStream(len(requests), abort=partial(self._abort_later, requests))
        with self._closing:
            self._raise_if_closed()
            self._streams |= dict.fromkeys(requests, stream)
            self._inbox.put(partial(self._add, requests))
        return stream

    async def slots(self) -> SlotsSnapshot:
        """Every slot. Raises EngineDead, as all that follow."""
        return await self._between_steps(partial(snapshot, self._scheduler, self.info.block_bytes))

    async def requests(self, owner: str) -> tuple[RequestView, ...]:
        """The open requests of one owner."""
        return await self._between_steps(partial(views_of, self._scheduler, owner))

    async def cancel(self, call_id: str, owner: str) -> int:
        """Ends what is open of a call, if it is the owner's; returns how many requests that were."""
        return await self._between_steps(lambda _: self._cancel(call_id, owner))

    async def _between_steps(self, question: Callable[[float], Answer]) -> Answer:
        """What `question` answers on the engine thread, given the time."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        with self._closing:
            self._raise_if_closed()
            self._questions.add(future)
            self._inbox.put(partial(self._answer, future, question))
        return await future

    def _abort_later(self, requests: Sequence[Request]) -> None:
        self._inbox.put(partial(self._abort, requests))

    def _raise_if_closed(self) -> None:
        if self._is_closed:
            raise EngineDead

    def _deliver_mask(self, request: Request, mask: Future[bytes]) -> None:
        """Called on the threads that compute masks."""
        self._inbox.put(partial(self._take_mask, request, mask))

    # ── on the engine thread ──

    def _main(self) -> None:
        try:
            while not self._is_stopping:
                self._drain()
                self.step()
            self._publish(self._scheduler.end_all(FinishReason.SHUTDOWN, "The server is shutting down."))
            self._runner.run(self._scheduler.schedule())  # what they held is destroyed, too
        finally:
            self._close()

    def step(self) -> None:
        """Schedule, run, update, publish."""
        started = time.monotonic()
        batch = self._scheduler.schedule()
        waited = tuple(started - request.arrival_time for request in self._scheduler.newly_admitted)
        self._is_idle = not batch.chunks and not batch.freed
        if not self._is_idle:
            emissions = self._run(batch)
            self._publish(emissions, StepTimes(started, time.monotonic()), waited)
        elif waited:
            self._publish([], queue_seconds=waited)

    def _run(self, batch: Batch) -> list[Emission]:
        try:
            output = self._runner.run(batch)
        except Exception as error:  # whatever a backend throws fails the requests of this step, and only those
            if not batch.chunks:
                raise  # nobody to tell: a runner that cannot even free is of no more use
            logger.exception("a step of %d requests failed", len(batch.chunks))
            return self._scheduler.fail(batch, f"The model failed in this step: {type(error).__name__}.")
        return self._scheduler.update(batch, output)

    def _drain(self) -> None:
        """Makes the calls that came in, and ends what is overdue; waits for one of these where nothing can run."""
        if self._is_idle:
            self._wait()
        while not self._inbox.empty():
            self._inbox.get()()
        if overdue := self._scheduler.end_overdue():
            self._publish(overdue)

    def _wait(self) -> None:
        """For a call, which is made, or for the next deadline."""
        seconds = min(self._scheduler.next_deadline - time.monotonic(), _LONGEST_WAIT_S)
        try:
            call = self._inbox.get(timeout=max(0.0, seconds))
        except Empty:
            return
        call()

    def _add(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._scheduler.add(request)
        self._publish([])

    def _abort(self, requests: Sequence[Request]) -> None:
        open_requests = [request for request in requests if request.finish_reason is None]
        self._publish([self._scheduler.end(request, FinishReason.ABORT) for request in open_requests])

    def _cancel(self, call_id: str, owner: str) -> int:
        open_requests = [*self._scheduler.running, *self._scheduler.waiting]
        meant = [request for request in open_requests if (request.call_id, request.owner) == (call_id, owner)]
        self._abort(meant)
        return len(meant)

    def _take_mask(self, request: Request, mask: Future[bytes]) -> None:
        error = mask.exception()
        if error is None:
            self._scheduler.choices.take(request, mask.result())
        elif request.finish_reason is None:
            self._publish([self._scheduler.end(request, FinishReason.ERROR, failure(error))])

    def _answer(self, future: asyncio.Future[Answer], question: Callable[[float], Answer]) -> None:
        answer = question(time.monotonic())
        self._questions.discard(future)
        call_on(future.get_loop(), partial(_resolve, future, answer))

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
        self._observe(report(self._scheduler, emissions, times, queue_seconds))

    def _close(self) -> None:
        """Nothing enters any more, and whoever still waits hears of it. After a death no state but the list of who
        waits is to be trusted."""
        with self._closing:
            self._is_closed = True
        self._masks.close()
        error = "The server is shutting down." if self._is_stopping else "The engine failed; see the server's log."
        for request, stream in self._streams.items():
            event = TokenEvent(request.index, finish_reason=FinishReason.SHUTDOWN, error=error)
            last = request.last(event, time.monotonic(), self.info.block_bytes)
            call_on(stream.loop, partial(stream.deliver, last))
        for future in self._questions:
            call_on(future.get_loop(), partial(_resolve, future, EngineDead(error)))
        if not self._is_stopping:
            self._on_death()


def _resolve(future: asyncio.Future[Answer], answer: Answer | EngineDead) -> None:
    if future.done():  # its waiter has gone
        return
    if isinstance(answer, EngineDead):
        future.set_exception(answer)
    else:
        future.set_result(answer)
