"""The engine thread, its inbox, and the step. The only file of the engine with concurrency in it.

Two crossings and no more: calls go in through the inbox and are made on the engine thread between two steps; events go
out with one `call_soon_threadsafe` a step. The scheduler and the runner are touched by the engine thread alone.
"""

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue

from app.engine.detokenizer import Vocabulary
from app.engine.errors import EngineDead, RequestTooLong
from app.engine.report import SlotsSnapshot, StepReport, StepTimes, report, snapshot
from app.engine.request import FinishReason, Request, Submission, TokenEvent
from app.engine.scheduler import Emission, Limits, Scheduler
from app.engine.stream import EventStream
from model.batch import Batch, Runner

logger = logging.getLogger(__name__)


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
        self._scheduler = Scheduler(runner.info, limits)
        self._streams: dict[Request, EventStream] = {}
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._questions: set[asyncio.Future[SlotsSnapshot]] = set()
        self._closing = threading.Lock()  # held to close, and to ask for something: nobody asks after the end
        self._is_closed = False
        self._is_stopping = False
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
        """The most tokens that a request with such a prompt may generate; 0 or less: none."""
        pool = self.info.num_blocks * self.info.block_size
        return min(self.info.max_model_len, pool) - num_prompt_tokens

    def submit(self, submissions: Sequence[Submission]) -> EventStream:
        """Accepts all of them or none; raises RequestTooLong or EngineDead."""
        for submission in submissions:
            self._refuse_too_long(submission)
        now = time.monotonic()
        requests = [Request(one, index, self._vocabulary, now) for index, one in enumerate(submissions)]
        stream = EventStream(len(requests), abort=partial(self._abort_later, requests))
        with self._closing:
            self._raise_if_closed()
            self._streams |= dict.fromkeys(requests, stream)
            self._inbox.put(partial(self._add, requests))
        return stream

    async def slots(self) -> SlotsSnapshot:
        """Every slot, seen between two steps. Raises EngineDead."""
        future: asyncio.Future[SlotsSnapshot] = asyncio.get_running_loop().create_future()
        with self._closing:
            self._raise_if_closed()
            self._questions.add(future)
            self._inbox.put(partial(self._answer_slots, future))
        return await future

    def _abort_later(self, requests: Sequence[Request]) -> None:
        self._inbox.put(partial(self._abort, requests))

    def _raise_if_closed(self) -> None:
        if self._is_closed:
            raise EngineDead

    def _refuse_too_long(self, submission: Submission) -> None:
        prompt, wanted = len(submission.prompt_token_ids), submission.params.max_tokens
        room = self.room_for(prompt)
        if wanted > room:
            limit = prompt + room
            what = "context" if limit == self.info.max_model_len else "KV cache"
            advice = f"Shorten the prompt or ask for at most {room} tokens." if room > 0 else "Shorten the prompt."
            raise RequestTooLong(
                f"The prompt has {prompt} tokens and max_tokens is {wanted}, together {prompt + wanted}; "
                f"the {what} holds {limit}. {advice}"
            )

    # ── on the engine thread ──

    def _main(self) -> None:
        try:
            while not self._is_stopping:
                self._drain()
                if self._scheduler.has_work:
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
        emissions = self._run(batch)
        self._publish(emissions, StepTimes(started, time.monotonic(), waited))

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
        """Makes the calls that came in; waits for one where there is nothing else to do."""
        if not self._scheduler.has_work:
            self._inbox.get()()
        while not self._inbox.empty():
            self._inbox.get()()

    def _add(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._scheduler.add(request)
        self._publish([])

    def _abort(self, requests: Sequence[Request]) -> None:
        open_requests = [request for request in requests if request.finish_reason is None]
        self._publish([self._scheduler.end(request, FinishReason.ABORT) for request in open_requests])

    def _answer_slots(self, future: asyncio.Future[SlotsSnapshot]) -> None:
        answer = snapshot(self._scheduler, self.info.block_bytes, time.monotonic())
        self._questions.discard(future)
        _call_on(future.get_loop(), partial(_resolve, future, answer))

    def _publish(self, emissions: Sequence[Emission], times: StepTimes | None = None) -> None:
        self._scheduler.slots.check_sum()
        deliveries = defaultdict(list)
        for request, event in emissions:
            stream = self._streams[request] if event.finish_reason is None else self._streams.pop(request)
            deliveries[stream.loop].append((stream, event))
        for loop, events in deliveries.items():
            _call_on(loop, partial(_deliver, events))
        self._observe(report(self._scheduler, emissions, times))

    def _close(self) -> None:
        """Nothing enters any more, and whoever still waits hears of it. After a death no state but the list of who
        waits is to be trusted."""
        with self._closing:
            self._is_closed = True
        error = "The server is shutting down." if self._is_stopping else "The engine failed; see the server's log."
        for request, stream in self._streams.items():
            event = TokenEvent(request.index, finish_reason=FinishReason.SHUTDOWN, error=error)
            _call_on(stream.loop, partial(stream.deliver, event))
        for future in self._questions:
            _call_on(future.get_loop(), partial(_resolve, future, EngineDead(error)))
        if not self._is_stopping:
            self._on_death()


def _deliver(events: Iterable[tuple[EventStream, TokenEvent]]) -> None:
    for stream, event in events:
        stream.deliver(event)


def _resolve(future: asyncio.Future[SlotsSnapshot], answer: SlotsSnapshot | EngineDead) -> None:
    if future.done():  # its waiter has gone
        return
    if isinstance(answer, EngineDead):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _call_on(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Has `call` made on the event loop. A loop that is closed has nobody left who waits."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
