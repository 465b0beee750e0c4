"""What measures a load for a sweep in place of a server: figures worked out by hand, and a simulated queue."""

import asyncio
from collections.abc import Callable

from app.bench.records import Progress, Record, RunResult, RunSettings
from tests.bench.queueing import Queue

OnRecord, OnProgress = Callable[[Record], None], Callable[[Progress], None]


class Closed:
    """A server with `num_slots` slots; alone, a request takes 100 ms and has 10 tokens."""

    def __init__(self, num_slots: int = 8, failed_from: float = float("inf")) -> None:
        self.num_slots = num_slots
        self.failed_from = failed_from
        self.loads: list[int] = []
        self.numbers: list[int] = []
        self.after_each: Callable[[], None] = lambda: None

    async def __call__(
        self, settings: RunSettings, load: int, *, on_record: OnRecord, on_progress: OnProgress, stop: asyncio.Event
    ) -> RunResult:
        assert settings.request_rate == float("inf")
        concurrency = settings.concurrency or 0
        self.loads.append(concurrency)
        self.numbers.append(load)
        on_progress(Progress(100.0, 1, 1, 0, 0, 0, 0, 0.0, None))
        self.after_each()
        waiting = max(concurrency / self.num_slots, 1.0)
        return {
            "max_concurrency": concurrency,
            "output_throughput": 100.0 * min(concurrency, self.num_slots),
            "mean_ttft_ms": 10 + 100.0 * (waiting - 1),
            "p99_ttft_ms": 20 + 100.0 * (waiting - 1),
            "mean_e2el_ms": 100.0 * waiting,
            "failed": 3 if concurrency >= self.failed_from else 0,
            "completed": 10,
        }


class Open:
    """A simulated queue that can do `capacity` requests a second."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.rates: list[float] = []
        self.lasted: list[float] = []

    async def __call__(
        self, settings: RunSettings, load: int, *, on_record: OnRecord, on_progress: OnProgress, stop: asyncio.Event
    ) -> RunResult:
        rate = settings.request_rate
        self.rates.append(rate)
        queue = Queue(rate / self.capacity, num_slots=8, service_s=8 / self.capacity, seed=load)
        records = sorted(queue.records(), key=lambda record: record.ended)
        waits, now = [], 0.0
        for tick in queue.ticks():
            now = tick.elapsed
            while records and records[0].ended <= now:
                record = records.pop(0)
                waits.append((record.first or 0.0) - record.scheduled)
                on_record(record)
            on_progress(tick)
            if stop.is_set():
                break
        self.lasted.append(now)
        return {
            "request_rate": rate,
            "output_throughput": 10 * min(rate, self.capacity),
            "mean_e2el_ms": 100.0,
            "mean_ttft_ms": 1000 * sum(waits) / len(waits),
            "p99_ttft_ms": 1000 * sorted(waits)[len(waits) * 99 // 100],
            "failed": 0,
            "completed": len(waits),
        }
