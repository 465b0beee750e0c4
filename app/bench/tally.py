"""What a run's records add up to, as they come.

Memory is bounded whatever the run's length: durations go into distributions, and of the requests a sample is kept.
Which figures are made of it, and their names, is not known here.
"""

import random
from collections import Counter
from typing import Any

from app.bench.distribution import Distribution
from app.bench.records import Failure, Record, RunSettings

MAX_TIMELINE = 1000  # requests of a run that are kept one by one
LATENCIES = ("ttft", "tpot", "itl", "e2el")


def latencies(record: Record) -> dict[str, float]:
    """In seconds, those of a completed request that it has; the gaps between pieces are not among them."""
    found = {"e2el": record.ended - record.scheduled}
    if record.first is not None:
        found["ttft"] = record.first - record.scheduled
        if record.output_tokens > 1:
            found["tpot"] = (record.ended - record.first) / (record.output_tokens - 1)
    return found


class Tally:
    """Everything that a run's records add up to."""

    def __init__(self, settings: RunSettings) -> None:
        self.distributions = {name: Distribution() for name in LATENCIES}
        self.num_completed = 0
        self.num_cancelled = 0
        self.num_good = 0
        self.failures: Counter[Failure] = Counter()
        self.messages: dict[Failure, str] = {}  # the first of each kind
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.last_ended = 0.0
        self._num_pieces = 0  # of completed requests
        self._goodput = {name: limit / 1000 for name, limit in settings.goodput.items()}
        self._timeline: list[Record] = []
        self._num_seen = 0
        self._random = random.Random(settings.seed)

    def add(self, record: Record) -> None:
        self.last_ended = max(self.last_ended, record.ended)
        self._sample(record)
        if record.is_cancelled:
            self.num_cancelled += 1
        elif record.failure is not None:
            self.failures[record.failure] += 1
            self.messages.setdefault(record.failure, record.message)
        else:
            self._complete(record)

    def _complete(self, record: Record) -> None:
        self.num_completed += 1
        self.prompt_tokens += record.prompt_tokens
        self.output_tokens += record.output_tokens
        self._num_pieces += len(record.gaps) + 1
        found = latencies(record)
        for name, seconds in found.items():
            self.distributions[name].add(seconds)
        self.distributions["itl"].extend(record.gaps)
        self.num_good += all(found.get(name, 0.0) <= limit for name, limit in self._goodput.items())

    def _sample(self, record: Record) -> None:
        """Each request is as likely as any other to stay (Vitter's algorithm R)."""
        self._num_seen += 1
        if len(self._timeline) < MAX_TIMELINE:
            self._timeline.append(record)
        elif (place := self._random.randrange(self._num_seen)) < MAX_TIMELINE:
            self._timeline[place] = record

    @property
    def num_failed(self) -> int:
        return self.failures.total()

    @property
    def tokens_per_piece(self) -> float:
        return self.output_tokens / self._num_pieces if self._num_pieces else 1.0

    def timeline(self) -> list[dict[str, Any]]:
        """In the order of sending."""
        kept = sorted(self._timeline, key=lambda record: (record.scheduled, record.number))
        return [timeline_entry(record) for record in kept]


def timeline_entry(record: Record) -> dict[str, Any]:
    return {
        "number": record.number,
        "scheduled": record.scheduled,
        "sent": record.sent,
        "first": record.first,
        "ended": record.ended,
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "failure": record.failure,
        "cancelled": record.is_cancelled,
        "queue_s": record.queue_s,
        "prefill_s": record.prefill_s,
    }
