"""Whether an open loop asks for more than a server can do: then open requests (in flight, or held back by the client)
and waits grow as long as it runs.

Both are looked at in blocks of time, because neighbours in time are alike and would count as proof many times over. And
more must be open than chance brings at the very edge, where a server is just not overloaded. A server so overloaded
that it answers hardly anything tells no waits: there the open requests must do.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.bench.records import Progress, Record

NUM_BLOCKS = 8
MAX_POINTS = 1024
SECONDS_NEEDED = 10.0
FIRST_ANSWERS = 8
ANSWER_TIMES_LEFT_OUT = 2.0  # of what these took, from the start: an idle server fills up first, whatever the rate
MAX_SHARE_LEFT_OUT = 0.5  # of the time: else there is too little to go by
MIN_GROWTH = 1.5  # from a line's start to its end
T_LIMIT = 3.7  # of its slope: Student's t, 6 degrees of freedom, one-sided 0.5 %
MIN_DEVIATIONS = 2.0  # of arrivals less answers, which are two Poisson counts with the same mean at the edge
DEVIATIONS_ALONE = 4.0  # where no waits are known

Point = tuple[float, float]


class Saturation:
    """Fed with a run's progress and records; memory is bounded."""

    def __init__(self) -> None:
        self._open = _Series()
        self._due = _Series()
        self._waits = _Series()
        self._first_answer_times: list[float] = []

    def progress(self, progress: Progress) -> None:
        self._open.add((progress.elapsed, float(progress.in_flight + progress.held)))
        self._due.add((progress.elapsed, float(progress.sent + progress.held)))

    def record(self, record: Record) -> None:
        """A wait counts when it is known, which is at the answer's end: waits that go on are not known to be short."""
        if record.first is not None:
            self._waits.add((record.ended, record.first - record.scheduled))
        if record.is_completed and len(self._first_answer_times) < FIRST_ANSWERS:
            self._first_answer_times.append(record.ended - record.scheduled)

    @property
    def is_reached(self) -> bool:
        """More open than chance brings, and longer waits."""
        now = self._open.points[-1][0] if self._open.points else 0.0
        begin = self._seconds_to_fill
        if now < SECONDS_NEEDED or begin > now * MAX_SHARE_LEFT_OUT:
            return False
        num_open, waits = (_trend(series.points, begin, now) for series in (self._open, self._waits))
        arrivals = self._due.points[-1][1] - next(due for time, due in self._due.points if time >= begin)
        deviations = num_open.rise / math.sqrt(2 * arrivals) if arrivals else 0.0
        least = MIN_DEVIATIONS if waits.is_clear else DEVIATIONS_ALONE
        return num_open.is_clear and deviations > least

    @property
    def _seconds_to_fill(self) -> float:
        times = self._first_answer_times
        return ANSWER_TIMES_LEFT_OUT * statistics.median(times) if times else math.inf


class _Series:
    """Points in the order of time, thinned out evenly when there are many."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._stride = 1
        self._count = 0

    def add(self, point: Point) -> None:
        if self._count % self._stride == 0:
            self.points.append(point)
        self._count += 1
        if len(self.points) >= MAX_POINTS:
            self.points = self.points[::2]
            self._stride *= 2


@dataclass(frozen=True, slots=True)
class _Trend:
    """A line through the means of blocks of time."""

    start: float
    rise: float  # to its end
    t: float  # of its slope

    @property
    def is_clear(self) -> bool:
        return self.t > T_LIMIT and self.start + self.rise > MIN_GROWTH * max(self.start, 0.0)


def _trend(points: Sequence[Point], begin: float, end: float) -> _Trend:
    """None that is clear where a block has no points."""
    means = list(_block_means(points, begin, end))
    if len(means) < NUM_BLOCKS:
        return _Trend(start=0.0, rise=0.0, t=0.0)
    places = range(NUM_BLOCKS)
    slope, start = statistics.linear_regression(places, means)
    squares = sum((mean - start - slope * place) ** 2 for place, mean in zip(places, means, strict=True))
    spread = sum((place - statistics.fmean(places)) ** 2 for place in places)
    error = math.sqrt(squares / (NUM_BLOCKS - 2) / spread)
    return _Trend(start, slope * (NUM_BLOCKS - 1), slope / error if error else math.copysign(math.inf, slope))


def _block_means(points: Sequence[Point], begin: float, end: float) -> Iterator[float]:
    """Of the blocks that have points."""
    width = (end - begin) / NUM_BLOCKS
    for block in range(NUM_BLOCKS):
        low = begin + block * width
        values = [value for time, value in points if low <= time < low + width]
        if values:
            yield statistics.fmean(values)
