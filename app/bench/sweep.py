"""`slotwise bench sweep`: several loads, one after another, up a ladder of concurrencies or rates, or in search of the
highest that keeps given limits. It stops by itself once more load brings nothing but waiting.
"""

import asyncio
import math
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Literal, Protocol

from rich.console import Console

from app.bench import serve
from app.bench.assertions import Assertion, check, parse_assertion, ratio
from app.bench.ending import conclude, mendable
from app.bench.errors import BadWorkload
from app.bench.loop import in_loop
from app.bench.measure import measuring
from app.bench.outputs import Outputs
from app.bench.plan import make_plan
from app.bench.quantities import value_of
from app.bench.records import Progress, Record, RunResult, RunSettings
from app.bench.saturation import Saturation
from app.bench.steps import Step, SweepResult, next_load
from app.bench.terminal import show_results

Axis = Literal["concurrency", "rate"]

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64)
DEFAULT_DURATION = 20.0  # seconds of each load
MAX_LOADS = 16  # of a search
LEAST_GAIN = 1.03  # in throughput by a higher concurrency: less is none
MORE_WAITING = 1.5  # in time to first token, where throughput gains nothing: then the server is full


def add_arguments(parser: ArgumentParser) -> None:
    serve.add_arguments(parser)
    group = parser.add_argument_group("Sweep")
    group.add_argument(
        "--limit",
        dest="limits",
        metavar="LINE",
        action="append",
        default=[],
        help="What a load must keep to, such as 'p99_ttft<500ms'; again for more. Unless one is on failed, none may.",
    )
    group.add_argument(
        "--find-max",
        action="store_true",
        help="Search the highest load that keeps the limits and that the server can go on with, from the first"
        " --concurrency or --request-rate on. [default: 1 at a time]",
    )


def run(arguments: Namespace) -> int:
    """Exit status: as of `slotwise bench serve`; limits that a load misses end the sweep's search, not in an error."""

    def sweep() -> int:
        limits = [parse_assertion(line) for line in arguments.limits]
        return in_loop(_sweep(arguments, Outputs.read(arguments), limits))

    return mendable("sweep", sweep)


async def _sweep(options: Namespace, outputs: Outputs, limits: Sequence[Assertion]) -> int:
    axis, loads = read_ladder(options)
    if options.num_prompts is None and options.duration is None:
        options.duration = DEFAULT_DURATION
    plan = await make_plan(options)
    settings = replace(outputs, assertions=(*outputs.assertions, *limits)).with_percentiles(plan.loads[0])
    with measuring(plan.source, outputs, is_verified=options.verify) as (measure, stop):
        sweep = Sweep(settings, axis, measure, limits, stop)
        found = await (sweep.highest(loads[0]) if options.find_max else sweep.over(loads))
    console = Console()
    show_results(console, found.runs())
    for line in found.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return conclude(console, outputs, found.runs(), is_interrupted=stop.is_set())


def read_ladder(options: Namespace) -> tuple[Axis, Sequence[float]]:
    """Raises BadWorkload."""
    if options.ramp_up_strategy is not None:
        raise BadWorkload("a sweep has no ramp; `bench serve` has")
    if options.request_rate is None:
        return "concurrency", options.concurrency or ((1,) if options.find_max else CONCURRENCIES)
    if not all(math.isfinite(rate) for rate in options.request_rate):
        raise BadWorkload("a sweep over rates needs rates that are finite")
    return "rate", options.request_rate


class Measure(Protocol):
    """Measures one load. `on_record` and `on_progress` are to be called as `run_load` does, and `stop` to be heeded."""

    async def __call__(
        self,
        settings: RunSettings,
        load: int,
        *,
        on_record: Callable[[Record], None],
        on_progress: Callable[[Progress], None],
        stop: asyncio.Event,
    ) -> RunResult: ...


@asynccontextmanager
async def following(stop: asyncio.Event) -> AsyncIterator[asyncio.Event]:
    """An event that is set when `stop` is, and may be set for itself."""
    end = asyncio.Event()

    async def follow() -> None:
        await stop.wait()
        end.set()

    following_it = asyncio.create_task(follow())
    try:
        yield end
    finally:
        following_it.cancel()


class Sweep:
    def __init__(
        self,
        settings: RunSettings,
        axis: Axis,
        measure: Measure,
        limits: Sequence[Assertion] = (),
        stop: asyncio.Event | None = None,
    ) -> None:
        self._settings = settings
        self._axis = axis
        self._measure = measure
        self._limits = tuple(limits)
        self._stop = stop or asyncio.Event()
        self._steps: list[Step] = []

    async def over(self, loads: Iterable[float]) -> SweepResult:
        """Each of them, in rising order, up to the first that is more than the server can do, or that it answers not at
        all."""
        for load in sorted(loads):
            if self._stop.is_set():
                break
            step = await self._step(load)
            if step.is_oversaturated or not step.result["completed"]:
                break
        return self._result(is_search=False)

    async def highest(self, start: float) -> SweepResult:
        """Searches the highest load that is good: doubles, or halves, until a good and a bad one are known, then goes
        in between."""
        load: float | None = start
        while load is not None and len(self._steps) < MAX_LOADS and not self._stop.is_set():
            await self._step(load)
            load = next_load(sorted(self._steps, key=lambda step: step.load), is_whole=self._axis == "concurrency")
        return self._result(is_search=True)

    async def _step(self, load: float) -> Step:
        saturation = Saturation()

        def watch(progress: Progress) -> None:
            saturation.progress(progress)
            if self._axis == "rate" and saturation.is_reached:
                enough.set()

        async with following(self._stop) as enough:
            settings, number = self._settings_of(load), len(self._steps)
            result = await self._measure(settings, number, on_record=saturation.record, on_progress=watch, stop=enough)
        is_full = self._is_full(result) if self._axis == "concurrency" else saturation.is_reached
        self._steps.append(Step(load, result, tuple(self._misses(result)), is_full))
        return self._steps[-1]

    def _settings_of(self, load: float) -> RunSettings:
        if self._axis == "concurrency":
            return replace(self._settings, concurrency=round(load), request_rate=math.inf)
        return replace(self._settings, request_rate=load)

    def _misses(self, result: RunResult) -> Iterator[str]:
        for limit in self._limits:
            if not (outcome := check(limit, result)).holds:
                yield str(outcome)
        if result["failed"] and not any(limit.quantity.key == "failed" for limit in self._limits):
            yield f"{result['failed']:,} requests failed"

    def _is_full(self, result: RunResult) -> bool:
        """Nothing gained over the best of the others but waiting."""
        others = (step.result for step in self._steps)
        best = max(others, key=lambda one: value_of(one, "output_throughput") or 0.0, default=None)
        if best is None:
            return False
        gain, waiting = (
            ratio(value_of(result, key), value_of(best, key)) for key in ("output_throughput", "mean_ttft_ms")
        )
        return (gain or 0.0) < LEAST_GAIN and (waiting or math.inf) > MORE_WAITING

    def _result(self, *, is_search: bool) -> SweepResult:
        return SweepResult(tuple(sorted(self._steps, key=lambda step: step.load)), self._limits, is_search)
