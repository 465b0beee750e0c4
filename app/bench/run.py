"""One load: requests go out when they are due, records come in, figures come out. Closed loop, where a number of
workers each send when they have been answered, or open loop, where requests are due at drawn times.

A run that is stopped or whose server dies gives the figures it has. What is asked is decided elsewhere, and so is what
becomes of the figures.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from app.bench.arrivals import arrivals
from app.bench.client import Client, Clock
from app.bench.errors import BadWorkload
from app.bench.lag import ClientLoad
from app.bench.lengths import Lengths
from app.bench.metrics import result
from app.bench.records import Ask, Failure, Progress, Record, RunResult, RunSettings
from app.bench.scrape import DEFINITIONS as SERVER_DEFINITIONS
from app.bench.scrape import Watch
from app.bench.tally import Tally
from app.bench.throughput import Throughput

SECONDS_BETWEEN_PROGRESS = 0.25
UNREACHABLE_IN_A_ROW = 20  # and as many as there are workers: then the server is gone, and asking on is idle


def ignore(_: Any) -> None:
    """For who wants no records, or no progress."""


async def run_load(
    settings: RunSettings,
    asks: Iterable[Ask],
    on_record: Callable[[Record], None] = ignore,
    on_progress: Callable[[Progress], None] = ignore,
    stop: asyncio.Event | None = None,
) -> RunResult:
    """Takes the warm-up's requests from `asks` first. Ends when the settings say so, when there are no more asks, or
    when `stop` is set: then what is in flight is abandoned. Raises BadWorkload for settings that make no load."""
    check(settings)
    asks = iter(asks)
    stop = stop or asyncio.Event()
    async with Client(settings) as client:
        await _is_done_before(_warm_up(client, settings, asks), stop)
        load = _Load(client, asks, on_record)
        return await load.run(stop, on_progress)


def check(settings: RunSettings) -> None:
    """Raises BadWorkload for a load that would be none, or one without an end."""
    if settings.num_prompts is None and settings.duration is None:
        raise BadWorkload("a run needs a number of prompts or a duration")
    if is_closed(settings) and settings.concurrency is None and settings.num_prompts is None:
        raise BadWorkload("a run with a duration needs a concurrency or a request rate")
    if settings.ramp is not None and not (settings.ramp_from > 0 and settings.ramp_to > 0):
        raise BadWorkload("a ramp needs two rates above zero")


def is_closed(settings: RunSettings) -> bool:
    return settings.ramp is None and math.isinf(settings.request_rate)


async def _is_done_before(work: Coroutine[Any, Any, None], *ends: asyncio.Event) -> bool:
    """Does the work until one of the events is set; then it is left as it is, and the answer is False."""
    working = asyncio.create_task(work)
    ending = [asyncio.create_task(end.wait()) for end in ends]
    await asyncio.wait([working, *ending], return_when=asyncio.FIRST_COMPLETED)
    is_done = working.done()
    for task in (working, *ending):
        task.cancel()
    with suppress(asyncio.CancelledError):
        await working
    return is_done


async def _warm_up(client: Client, settings: RunSettings, asks: Iterator[Ask]) -> None:
    """As many at a time as in the run; what becomes of them is of no interest."""
    clock = Clock.start()
    waiting = iter(list(islice(asks, settings.warmup)))

    async def work() -> None:
        for ask in waiting:
            await client.ask(ask, clock, clock.now())

    async with asyncio.TaskGroup() as workers:
        for _ in range(min(settings.concurrency or 1, settings.warmup)):
            workers.create_task(work())


class _Load:
    """The state of one run."""

    def __init__(self, client: Client, asks: Iterator[Ask], on_record: Callable[[Record], None]) -> None:
        self._client = client
        self._settings = client.settings
        self._asks = asks if self._settings.num_prompts is None else islice(asks, self._settings.num_prompts)
        self._on_record = on_record
        self._tally = Tally(self._settings)
        self._throughput = Throughput()
        self._client_load = ClientLoad()
        self._lengths = Lengths(self._settings.ignore_eos)
        self._warnings: list[str] = []
        self._num_sent = 0
        self._in_flight = 0
        self._max_in_flight = 0
        self._num_held = 0
        self._unreachable_in_a_row = 0
        self._given_up = asyncio.Event()
        self._clock = Clock.start()

    async def run(self, stop: asyncio.Event, on_progress: Callable[[Progress], None]) -> RunResult:
        async with Watch(self._client) as watch, self._client_load.measured():
            self._clock = Clock.start()
            ticker = asyncio.create_task(self._tick(on_progress))
            sending = self._send_closed() if is_closed(self._settings) else self._send_open()
            is_stopped = not await _is_done_before(sending, stop, self._given_up)
            ticker.cancel()
            on_progress(self._progress(0.0))
        ended = self._clock.now() if is_stopped else self._tally.last_ended
        figures = result(self._settings, self._tally, self._throughput, ended, self._max_in_flight)
        return figures | {
            "definitions": {**figures["definitions"], **SERVER_DEFINITIONS},
            "interrupted": self._in_flight if is_stopped else 0,
            "client": self._client_load.as_json(self._client.site.host, [*self._warnings, *self._lengths.warnings()]),
            "server": watch.as_json(self._clock.origin),
        }

    async def _send_closed(self) -> None:
        duration = self._settings.duration or math.inf

        async def work() -> None:
            while self._clock.now() < duration and (ask := next(self._asks, None)) is not None:
                await self._send(ask, self._clock.now())

        async with asyncio.TaskGroup() as workers:
            for _ in range(self._settings.concurrency or self._settings.num_prompts or 1):
                workers.create_task(work())

    async def _send_open(self) -> None:
        permits = asyncio.Semaphore(self._settings.concurrency or 1 << 30)

        async def hold_and_send(ask: Ask, scheduled: float) -> None:
            self._num_held += 1
            async with permits:
                self._num_held -= 1
                await self._send(ask, scheduled)

        async with asyncio.TaskGroup() as requests:
            for scheduled in arrivals(self._settings):
                await asyncio.sleep(max(scheduled - self._clock.now(), 0.0))
                self._client_load.late_sends.add(max(self._clock.now() - scheduled, 0.0))
                if (ask := next(self._asks, None)) is None:
                    return
                requests.create_task(hold_and_send(ask, scheduled))

    async def _send(self, ask: Ask, scheduled: float) -> None:
        self._num_sent += 1
        self._in_flight += 1
        self._max_in_flight = max(self._max_in_flight, self._in_flight)
        self._throughput.sent(self._clock.now())
        record = await self._client.ask(ask, self._clock, scheduled, self._on_piece)
        self._in_flight -= 1  # not if it is abandoned: then it counts as interrupted
        self._lengths.compare(ask, record)
        self._take(record)

    def _on_piece(self, now: float) -> None:
        self._throughput.piece(now - self._clock.origin)

    def _take(self, record: Record) -> None:
        if record.is_completed:
            self._throughput.answered(self._clock.now())
        self._tally.add(record)
        self._on_record(record)
        is_unreachable = record.failure is Failure.UNREACHABLE
        self._unreachable_in_a_row = self._unreachable_in_a_row + 1 if is_unreachable else 0
        if self._unreachable_in_a_row >= max(UNREACHABLE_IN_A_ROW, self._max_in_flight):
            self._warnings.append(f"gave up: {self._unreachable_in_a_row} requests in a row found no server")
            self._given_up.set()

    async def _tick(self, on_progress: Callable[[Progress], None]) -> None:
        while True:
            before = self._throughput.num_pieces
            await asyncio.sleep(SECONDS_BETWEEN_PROGRESS)
            on_progress(self._progress((self._throughput.num_pieces - before) / SECONDS_BETWEEN_PROGRESS))

    def _progress(self, pieces_per_s: float) -> Progress:
        elapsed = self._clock.now()
        return Progress(
            elapsed=elapsed,
            sent=self._num_sent,
            completed=self._tally.num_completed,
            failed=self._tally.num_failed,
            in_flight=self._in_flight,
            held=self._num_held,
            output_pieces=self._throughput.num_pieces,
            pieces_per_s=pieces_per_s,
            share_done=self._share_done(elapsed),
        )

    def _share_done(self, elapsed: float) -> float | None:
        by_time = elapsed / self._settings.duration if self._settings.duration else 0.0
        answered = self._num_sent - self._in_flight
        by_number = answered / self._settings.num_prompts if self._settings.num_prompts else 0.0
        return min(max(by_time, by_number), 1.0)
