"""What the loads of a sweep say together: where the knee is, which load is the highest that keeps given limits, and
which is to be tried next. It measures nothing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from app.bench.assertions import Assertion
from app.bench.quantities import in_words, load_of, value_of
from app.bench.records import RunResult

NEAR_ENOUGH = 1.1  # lowest load that does not keep the limits ÷ highest that does
LEAST_STEPS = 3  # fewer have no bend


@dataclass(frozen=True, slots=True)
class Step:
    """One load of a sweep."""

    load: float
    result: RunResult
    misses: tuple[str, ...]  # limits that it did not keep
    is_oversaturated: bool

    @property
    def is_good(self) -> bool:
        return not self.misses and not self.is_oversaturated

    @property
    def throughput(self) -> float | None:
        return value_of(self.result, "output_throughput") or None

    @property
    def latency(self) -> float | None:
        return value_of(self.result, "mean_e2el_ms") or None


@dataclass(frozen=True, slots=True)
class SweepResult:
    steps: tuple[Step, ...]  # from the lowest load to the highest
    limits: tuple[Assertion, ...]
    is_search: bool

    @property
    def knee(self) -> Step | None:
        """Where the curve of throughput over latency bends: of both, scaled from 0 to 1, throughput leads by the most
        (Satopää et al. 2011, "Finding a kneedle in a haystack"). None where latency does not outgrow throughput after
        that: then the server has more to give."""
        measured = [
            (step, step.throughput, step.latency)
            for step in self.steps
            if step.throughput is not None and step.latency is not None
        ]
        if len(measured) < LEAST_STEPS:
            return None
        steps, throughputs, latencies = zip(*measured, strict=True)
        leads = [one - other for one, other in zip(_scaled(throughputs), _scaled(latencies), strict=True)]
        place = max(range(len(leads)), key=leads.__getitem__)
        outgrows = latencies[-1] / latencies[place] > throughputs[-1] / throughputs[place]
        return steps[place] if outgrows else None

    @property
    def highest(self) -> Step | None:
        """That keeps the limits, as every lower one does."""
        return next(reversed(list(takewhile(lambda step: step.is_good, self.steps))), None)

    def lines(self) -> Iterator[str]:
        for step in self.steps:
            if step.is_oversaturated:
                yield f"{load_of(step.result)} is more than the server can do: waits grow, throughput does not"
        if self.limits or self.is_search:
            yield from self._lines_of_limits()
        if self.knee:
            yield f"the knee is at {_described(self.knee)}: beyond it, latency grows more than throughput"
        elif len(self.steps) >= LEAST_STEPS:
            yield f"no knee up to {_described(self.steps[-1])}"
        yield from self._gain()

    def _gain(self) -> Iterator[str]:
        """Of the best over the lowest."""
        best = max(self.steps, key=lambda step: step.throughput or 0.0, default=None)
        if best and best.throughput and self.steps[0].throughput and best is not self.steps[0]:
            gain = best.throughput / self.steps[0].throughput
            yield f"{load_of(best.result)} has {gain:.1f} times the throughput of {load_of(self.steps[0].result)}"

    def _lines_of_limits(self) -> Iterator[str]:
        kept = " and ".join(limit.text for limit in self.limits) or "no queue that grows"
        if self.highest:
            yield f"the highest load with {kept} is {_described(self.highest)}"
        else:
            yield f"no load of these keeps to {kept}"
        for step in self.steps:
            yield from (f"{load_of(step.result)}: {miss}" for miss in step.misses)

    def runs(self) -> list[RunResult]:
        """The figures of each load, with what it was found to be: the `sweep` of its result."""
        return [step.result | {"sweep": self._place_of(step)} for step in self.steps]

    def _place_of(self, step: Step) -> dict[str, Any]:
        has_limits = self.is_search or bool(self.limits)
        return {
            "is_oversaturated": step.is_oversaturated,
            "is_knee": step is self.knee,
            "is_highest": step is self.highest if has_limits else None,
            "limits": [limit.text for limit in self.limits],
            "missed_limits": list(step.misses),
        }


def _scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def _described(step: Step) -> str:
    figures = [
        f"{in_words(value)} {unit}"
        for key, unit in (
            ("output_throughput", "tok/s"),
            ("p99_ttft_ms", "ms p99 TTFT"),
            ("mean_e2el_ms", "ms a request"),
        )
        if (value := value_of(step.result, key)) is not None
    ]
    return f"{load_of(step.result)} ({', '.join(figures)})"


def next_load(steps: Sequence[Step], *, is_whole: bool) -> float | None:
    """The next to try, after one step or more in rising order; None: the highest good load is known well enough."""
    good = next((step.load for step in reversed(list(takewhile(lambda step: step.is_good, steps)))), None)
    bad = next((step.load for step in steps if not step.is_good), None)
    if bad is None or good is None:
        load = steps[-1].load * 2 if bad is None else bad / 2
        return load if not is_whole else float(round(load)) if load >= 1 else None
    if bad <= good * NEAR_ENOUGH or (is_whole and bad - good <= 1):
        return None
    between = math.sqrt(good * bad)
    return between if not is_whole else float(round(between))
