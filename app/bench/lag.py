"""How far the client itself was in the way: its event loop's lag, its processor time, its late sends.

A load test whose client is the limit measures the client. This says so.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from app.bench.distribution import Distribution

TICK = 0.02  # seconds between two looks at the event loop
MAX_CPU_SHARE = 0.8  # of one core: the client is one thread
MAX_LAG_S = 0.01
FEW_CORES = 2
LOCAL = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})


class ClientLoad:
    """Of this process while it is measured."""

    def __init__(self) -> None:
        self.loop_lag = Distribution()
        self.late_sends = Distribution()
        self._cpu = time.process_time()
        self._began = time.perf_counter()
        self._cpu_share: float | None = None

    @asynccontextmanager
    async def measured(self) -> AsyncIterator["ClientLoad"]:
        self._cpu, self._began = time.process_time(), time.perf_counter()
        watch = asyncio.create_task(self._watch())
        try:
            yield self
        finally:
            elapsed = time.perf_counter() - self._began
            self._cpu_share = (time.process_time() - self._cpu) / elapsed if elapsed else None
            watch.cancel()

    async def _watch(self) -> None:
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            self.loop_lag.add(max(time.perf_counter() - due, 0.0))

    def as_json(self, host: str, warnings: Sequence[str] = ()) -> dict[str, Any]:
        lag, late = self.loop_lag.percentile(99), self.late_sends.percentile(99)
        return {
            "cpu_share": self._cpu_share,
            "loop_lag_p99_ms": None if lag is None else lag * 1000,
            "late_sends_p99_ms": None if late is None else late * 1000,
            "warnings": [*warnings, *_warnings(self._cpu_share or 0.0, lag or 0.0, late or 0.0, host)],
        }


def _warnings(cpu_share: float, lag: float, late: float, host: str) -> list[str]:
    warnings = []
    if cpu_share > MAX_CPU_SHARE:
        warnings.append(f"this client used {cpu_share:.0%} of a core: the figures may be its own limit")
    if lag > MAX_LAG_S:
        warnings.append(f"this client looked up to {lag * 1000:.0f} ms late (p99) at what came: latencies include that")
    if late > MAX_LAG_S:
        warnings.append(f"this client sent up to {late * 1000:.0f} ms late (p99): latencies include that")
    cores = os.cpu_count() or 1
    if host in LOCAL and cores <= FEW_CORES:
        warnings.append(f"client and server share {cores} cores: what the client uses, the server lacks")
    return warnings
