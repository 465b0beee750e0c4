"""Many durations in little memory: mean, deviation and maximum are exact, percentiles to 1 part in 16,000.

A duration falls into one of 8,192 buckets between two powers of two, so a run of any length keeps a bounded number of
counts (the idea of HdrHistogram).
"""

import bisect
import math
from collections import Counter
from collections.abc import Iterable, Sequence

BUCKETS_PER_OCTAVE = 8192
SMALLEST = 2.0**-20  # seconds: what is shorter counts as zero


class Distribution:
    """Of durations in seconds."""

    def __init__(self) -> None:
        self.count = 0
        self.max = 0.0
        self._mean = 0.0
        self._squares = 0.0  # of the distances from the mean (Welford's method)
        self._counts: Counter[tuple[int, int]] = Counter()  # (exponent, bucket within the octave)

    def add(self, seconds: float) -> None:
        self.count += 1
        self.max = max(self.max, seconds)
        distance = seconds - self._mean
        self._mean += distance / self.count
        self._squares += distance * (seconds - self._mean)
        self._counts[_bucket(seconds)] += 1

    def extend(self, durations: Iterable[float]) -> None:
        for seconds in durations:
            self.add(seconds)

    @property
    def mean(self) -> float | None:
        return self._mean if self.count else None

    @property
    def std(self) -> float | None:
        """Of the population."""
        return math.sqrt(self._squares / self.count) if self.count else None

    def percentile(self, percent: float) -> float | None:
        """Between two ranks as numpy has it: linearly."""
        if not self.count:
            return None
        rank = (self.count - 1) * percent / 100
        low, high = self._at([math.floor(rank), math.ceil(rank)])
        return min(low + (high - low) * (rank - math.floor(rank)), self.max)

    def _at(self, ranks: Sequence[int]) -> list[float]:
        """The values at these ranks, which rise."""
        found: list[float] = []
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            while len(found) < len(ranks) and seen > ranks[len(found)]:
                found.append(_middle(bucket))
        return found

    def histogram(self, edges: Sequence[float]) -> list[int]:
        """How many lie between each edge (in seconds, rising) and the next; what lies outside is in none."""
        counts = [0] * (len(edges) - 1)
        for bucket, number in self._counts.items():
            place = bisect.bisect_right(edges, _middle(bucket)) - 1
            if 0 <= place < len(counts):
                counts[place] += number
        return counts


def _bucket(seconds: float) -> tuple[int, int]:
    mantissa, exponent = math.frexp(max(seconds, SMALLEST))  # 0.5 <= mantissa < 1
    return exponent, int((2 * mantissa - 1) * BUCKETS_PER_OCTAVE)


def _middle(bucket: tuple[int, int]) -> float:
    exponent, place = bucket
    return math.ldexp(0.5 + (place + 0.5) / (2 * BUCKETS_PER_OCTAVE), exponent)
