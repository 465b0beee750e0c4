"""A server as a queue, simulated: whether it keeps up is known, draws are seeded, nothing waits for a clock."""

import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heapreplace

from app.bench.records import Progress, Record

SECONDS = 40.0


@dataclass(frozen=True)
class Queue:
    """Requests at random times for `num_slots` slots; `load` is what is asked for ÷ what the server can do."""

    load: float
    num_slots: int = 8
    service_s: float = 1.0
    seed: int = 0

    def records(self) -> list[Record]:
        rng = random.Random(self.seed)
        free = [0.0] * self.num_slots
        heapify(free)
        now, records = 0.0, []
        while (now := now + rng.expovariate(self.load * self.num_slots / self.service_s)) < SECONDS:
            begin = max(now, free[0])
            took = self.service_s * rng.uniform(0.5, 1.5)
            heapreplace(free, begin + took)
            records.append(Record(len(records), now, now, begin + 0.05 * took, begin + took))
        return records

    def ticks(self) -> Iterator[Progress]:
        records = self.records()
        sent = [record.sent for record in records]
        ended = sorted(record.ended for record in records)
        for tick in range(1, int(SECONDS * 4)):
            now = tick / 4
            num_sent, num_ended = bisect_right(sent, now), bisect_right(ended, now)
            yield progress(now, num_sent, num_sent - num_ended)


def progress(now: float, due: int, num_open: int, limit: int = 1 << 30) -> Progress:
    """With `limit` requests in flight at most; the client holds the others back."""
    in_flight = min(num_open, limit)
    held = num_open - in_flight
    return Progress(now, due - held, due - num_open, 0, in_flight, held, 0, 0.0, None)
