"""The server's side of a load: its /metrics before, during and after, as the `server` part of a result.

It asks twice a second at most, so that neither the server nor the client's event loop notices. A server that has no
metrics, or that goes down under the load, leaves a result with less in it: that is no failure of its own.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from types import MappingProxyType, TracebackType
from typing import Any, Self

from app.bench.client import Client
from app.bench.connection import Lost
from app.bench.exposition import Dialect, Level, Levels, dialect_of, read_levels

MAX_SAMPLES = 600
SECONDS_BETWEEN = 0.5
SECONDS_TO_WAIT = 5.0
SAMPLED = ("running", "waiting", "kv_used", "kv_total", "generated_total", "prompt_total")
COUNTED = ("queue_s", "prefill_s", "decode_s", "preemptions")

DEFINITIONS: Mapping[str, str] = MappingProxyType(
    {
        "server.batch_avg": "Requests that the server worked on, mean of the samples in which there were any.",
        "server.tokens_per_step": "Tokens generated in the run ÷ steps of the engine in the run.",
        "server.queue_max": "Most requests that waited at once, of all samples.",
        "server.kv_max": "Largest share of the KV cache in use, of all samples.",
        "server.preemptions": "Running requests that were set back to waiting in the run, for want of KV cache.",
        "server.queue_s": "Seconds that requests waited, summed over the requests of the run.",
        "server.prefill_s": "Seconds from the slot to the first token, summed over the requests of the run.",
        "server.decode_s": "Seconds from the first token to the last, summed over the requests of the run.",
    }
)


class Watch(AbstractAsyncContextManager["Watch"]):
    """Samples a server while it is entered. Memory is bounded: of many samples every other one is dropped."""

    def __init__(self, client: Client, interval: float = SECONDS_BETWEEN) -> None:
        self._client = client
        self._interval = interval
        self._dialect: Dialect | None = None
        self._samples: list[Levels] = []
        self._latest: Levels | None = None
        self._peaks = _Peaks()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._look()
        if self._latest is not None:
            self._task = asyncio.create_task(self._keep_looking())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            await self._look()

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self._look()

    async def _look(self) -> None:
        try:
            page = await self._client.fetch("/metrics", timeout=SECONDS_TO_WAIT)
        except Lost:
            return
        if page.status == 200:
            self._note(page.body.decode(errors="replace"))

    def _note(self, page: str) -> None:
        self._dialect = self._dialect or dialect_of(page)
        if self._dialect is None:
            return
        try:
            levels = read_levels(page, self._dialect, time.perf_counter())
        except ValueError:  # a line that is none: what cannot be read is as good as not there
            return
        self._latest = levels
        self._peaks.add(levels)
        self._samples.append(levels)
        if len(self._samples) > MAX_SAMPLES:
            self._samples = self._samples[::2]
            self._interval *= 2

    def as_json(self, origin: float) -> dict[str, Any]:
        """The `server` of a result whose run began at `origin` (perf_counter); empty where the server tells nothing."""
        if self._dialect is None or self._latest is None:
            return {}
        first, last = self._samples[0], self._latest
        shown = self._samples if self._samples[-1] is last else [*self._samples, last]
        samples = [{name: getattr(levels, name) for name in SAMPLED} | {"t": levels.t - origin} for levels in shown]
        return {"kind": self._dialect.server, "samples": samples} | self._peaks.as_json() | _gained(first, last)


@dataclass(slots=True)
class _Peaks:
    """Over all samples, those that were dropped too."""

    running_sum: float = 0.0
    running_count: int = 0
    waiting: Level = None
    kv_share: Level = None

    def add(self, levels: Levels) -> None:
        if levels.running:
            self.running_sum += levels.running
            self.running_count += 1
        self.waiting = _higher(self.waiting, levels.waiting)
        self.kv_share = _higher(self.kv_share, levels.kv_share)

    def as_json(self) -> dict[str, Level]:
        mean = self.running_sum / self.running_count if self.running_count else None
        return {"batch_avg": mean, "queue_max": self.waiting, "kv_max": self.kv_share}


def _higher(one: Level, other: Level) -> Level:
    return max((level for level in (one, other) if level is not None), default=None)


def _gained(first: Levels, last: Levels) -> dict[str, Level]:
    """What was counted between two samples. Of a server that was started anew between them: nothing."""
    before, after = asdict(first), asdict(last)

    def gain(name: str) -> Level:
        return after[name] - before[name] if None not in (before[name], after[name]) else None

    generated, steps = gain("generated_total"), gain("steps")
    if generated is not None and generated < 0:
        return dict.fromkeys((*COUNTED, "tokens_per_step"))
    per_step = generated / steps if generated is not None and steps else None
    return {name: gain(name) for name in COUNTED} | {"tokens_per_step": per_step}
