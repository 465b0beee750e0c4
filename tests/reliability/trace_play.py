"""One trace, played: the engine tick by tick, and the requests of the trace, which come and go as it says."""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

from app.engine.detokenizer import Vocabulary
from app.engine.engine import Engine
from app.engine.limits import Limits
from app.engine.report import StepReport
from app.engine.request import Request, RequestParams, Submission, TokenEvent
from app.engine.stream import EventStream
from model.native.runner import NativeRunner
from tests.reliability.trace_plan import VOCAB_SIZE, Arrival, Phase, Trace

WORDS = Vocabulary(tuple(f" {token_id}".encode() for token_id in range(VOCAB_SIZE)), frozenset())
MAX_TICKS = 20_000
TICK_SECONDS = 0.0005  # where the engine has its thread


class Difference(AssertionError):
    """What a trace shows that should not be."""


class Player:
    """One engine, stepped by hand or with its thread; ticks are steps or short sleeps."""

    def __init__(self, runner: NativeRunner, limits: Limits, has_thread: bool = False) -> None:
        self.engine = Engine(runner, WORDS, limits, self._observe)
        self.num_steps = 0
        self._has_thread = has_thread
        if has_thread:
            self.engine.start()

    def _observe(self, report: StepReport) -> None:
        self.num_steps += report.step_seconds is not None

    def submit(self, name: str, prompt: tuple[int, ...], params: RequestParams) -> tuple[EventStream, Request]:
        stream = self.engine.submit([Submission(name, prompt, params)])
        abort = cast("partial[None]", stream._abort).args[0]
        ((request,),) = abort.args  # the engine's thread may have ended it by now
        return stream, request

    async def tick(self, before_delivery: Callable[[], None] = lambda: None) -> None:
        if self._has_thread:
            await asyncio.sleep(TICK_SECONDS)
        else:
            self.engine._inbox.put(lambda: None)  # so that it does not wait for anybody
            self.engine._drain()
            self.engine.step()
        before_delivery()
        await asyncio.sleep(0)

    async def close(self) -> None:
        """Once what ended has been destroyed."""
        while not self._has_thread and self.engine._scheduler.has_work:
            await self.tick()
        await asyncio.to_thread(self.engine.stop)
        self.engine._masks.close()


class Playing:
    """A request of a trace that has arrived."""

    def __init__(self, arrival: Arrival, stream: EventStream, request: Request) -> None:
        self.arrival = arrival
        self.stream = stream
        self.request = request
        self.events: list[TokenEvent] = []
        self.left_in: Phase | None = None
        self._num_seen = 0
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while arrived := await self.stream.next():
            self.events += arrived

    def see(self) -> None:
        """Leaves if it is time to."""
        leave, phase = self.arrival.leave, phase_of(self.request)
        if leave is None or self.left_in or phase is not leave.phase or self.reading.done():
            return
        self._num_seen += 1
        if self._num_seen >= leave.num_ticks or phase is Phase.ENDED:
            self.left_in = phase
            self.stream.abort()


def phase_of(request: Request) -> Phase:
    if request.finish_reason is not None:
        return Phase.ENDED
    if request.slot is None:
        return Phase.QUEUE if request.admission_time is None else Phase.SET_BACK
    if request.is_decoding:
        return Phase.DECODE
    return Phase.RECOMPUTED if request.num_preemptions else Phase.PREFILL


def see_all(here: Iterable[Playing]) -> None:
    for playing in here:
        playing.see()


async def play(trace: Trace, player: Player) -> list[Playing]:
    """Until all have ended."""
    to_come, here = list(trace.arrivals), dict[int, Playing]()
    ended_at: dict[int | None, int] = {None: 0}
    for tick in range(MAX_TICKS):
        for arrival in [one for one in to_come if ended_at.get(one.after, MAX_TICKS) + one.tick <= tick]:
            to_come.remove(arrival)
            playing = Playing(arrival, *player.submit(str(arrival.number), arrival.prompt, arrival.params))
            here[arrival.number] = playing
            playing.see()
        await player.tick(partial(see_all, here.values()))
        for number, playing in here.items():
            if playing.reading.done():
                ended_at.setdefault(number, tick)
        if not to_come and all(playing.reading.done() for playing in here.values()):
            return list(here.values())
    raise Difference(f"not at its end after {MAX_TICKS} ticks")
