"""`bench quick`: what a server does, in less than a minute: how fast it reads a prompt, how fast it writes for one, and
what it writes for four and sixteen at once.

Lengths are chosen by a first request, so that a slow server is done in time, too. How a load is measured and shown is
the caller's.
"""

import asyncio
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rich.console import Console

from app.bench import serve
from app.bench.ending import conclude, mendable
from app.bench.errors import Unusable
from app.bench.loop import in_loop
from app.bench.measure import measuring
from app.bench.options import add_server_options
from app.bench.outputs import Outputs, add_output_options
from app.bench.plan import make_plan
from app.bench.quantities import in_words, value_of
from app.bench.records import Progress, RunResult, RunSettings
from app.bench.run import ignore
from app.bench.sweep import Measure, following
from app.bench.terminal import show_results

PROBE_INPUT, PROBE_OUTPUT = 32, 16
CONCURRENCIES = (1, 4, 16)
SECONDS_OF_LOAD = 8.0
SECONDS_TO_END = 5.0  # after that, what is in flight is abandoned
SECONDS_OF_REQUEST = 1.0  # of one alone, about
INPUT_LENGTHS, OUTPUT_LENGTHS = (32, 512), (8, 128)  # least and most tokens
MS = 1000


def add_arguments(parser: ArgumentParser) -> None:
    add_server_options(parser)
    add_output_options(parser)


def run(arguments: Namespace) -> int:
    """Exit status: as of `slotwise bench serve`."""
    everything = ArgumentParser()
    serve.add_arguments(everything)
    defaults = vars(everything.parse_args([])) | {"input_len": INPUT_LENGTHS[1], "concurrency": (1,)}
    options = Namespace(**defaults | vars(arguments))
    return mendable("quick", lambda: in_loop(_quick(options, Outputs.read(options))))


async def _quick(options: Namespace, outputs: Outputs) -> int:
    plan = await make_plan(options)
    with measuring(plan.source, outputs) as (measure, stop):
        found = await quick(outputs.with_percentiles(plan.loads[0]), measure, stop)
    console = Console()
    show_results(console, found.writing)
    for line in found.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return conclude(console, outputs, found.runs(), is_interrupted=stop.is_set())


@dataclass(frozen=True, slots=True)
class QuickResult:
    reading: RunResult  # long prompts, one token each
    writing: tuple[RunResult, ...]  # one at a time, then several

    @property
    def prompt_throughput(self) -> float | None:
        """Tokens of a prompt that are read in a second, when the server has nothing else to do."""
        tokens, requests = value_of(self.reading, "total_input_tokens"), value_of(self.reading, "completed")
        milliseconds = value_of(self.reading, "median_ttft_ms")
        return tokens / requests / milliseconds * MS if tokens and requests and milliseconds else None

    def lines(self) -> Iterator[str]:
        yield self._line_of_reading()
        baseline = value_of(self.writing[0], "output_throughput") if self.writing else None
        for result in self.writing:
            yield from _line_of_writing(result, baseline)

    def _line_of_reading(self) -> str:
        speed = self.prompt_throughput
        if speed is None:
            return f"reads no prompt to its end: {_reason(self.reading)}"
        length = in_words(self.reading["total_input_tokens"] / self.reading["completed"])
        time = in_words(value_of(self.reading, "median_ttft_ms"), "ms")
        return f"reads {in_words(speed, 'tok/s')}: the first token after a prompt of {length} takes {time}"

    def runs(self) -> list[RunResult]:
        return [self.reading | {"prompt_throughput": self.prompt_throughput}, *self.writing]


def _line_of_writing(result: RunResult, baseline: float | None) -> Iterator[str]:
    throughput, each = value_of(result, "output_throughput"), value_of(result, "median_tpot_ms")
    if not throughput:
        yield f"writes nothing to its end for {result['max_concurrency']} at once: {_reason(result)}"
        return
    concurrency = result["max_concurrency"]
    speed = f", {in_words(MS / each)} tok/s each" if each and concurrency > 1 else ""
    gain = f", {throughput / baseline:.1f} times as much as for one" if baseline and concurrency > 1 else ""
    first = in_words(value_of(result, "median_ttft_ms"), "ms")
    yield f"writes {in_words(throughput, 'tok/s')} for {concurrency} at once{speed}{gain}; first token after {first}"


def _reason(result: RunResult) -> str:
    messages = [str(message) for message in (result.get("failure_messages") or {}).values()]
    return messages[0] if messages else "it is too slow for that"


async def quick(settings: RunSettings, measure: Measure, stop: asyncio.Event | None = None) -> QuickResult:
    """`measure` makes prompts of `input_len` and asks for `output_len` tokens. Raises Unusable where the first request
    is not answered."""
    course = _Course(measure, stop or asyncio.Event())
    base = replace(
        settings,
        request_rate=math.inf,
        ramp=None,
        num_prompts=None,
        ignore_eos=True,
        warmup=0,
        timeout=min(settings.timeout, SECONDS_OF_LOAD + SECONDS_TO_END),
    )
    base, probe = await course.probe(base)
    input_len, output_len = lengths_for(probe)
    reading = await course.load(replace(base, concurrency=1, input_len=input_len, output_len=1))
    writing = []
    for concurrency in CONCURRENCIES:
        if not course.stop.is_set():
            shape = replace(base, concurrency=concurrency, input_len=min(input_len, 128), output_len=output_len)
            writing.append(await course.load(shape))
    return QuickResult(reading, tuple(writing))


def lengths_for(probe: RunResult) -> tuple[int, int]:
    """Of prompt and answer, so that each takes about as long as a request shall."""
    first = value_of(probe, "median_ttft_ms") or value_of(probe, "median_e2el_ms") or 0.0
    each = value_of(probe, "median_tpot_ms") or 0.0
    budget = SECONDS_OF_REQUEST * MS
    return (
        _within(INPUT_LENGTHS, PROBE_INPUT * budget / first if first else math.inf),
        _within(OUTPUT_LENGTHS, budget / each if each else math.inf),
    )


def _within(bounds: tuple[int, int], length: float) -> int:
    return int(min(max(length, bounds[0]), bounds[1]))


class _Course:
    """The loads that were measured so far, each in its time."""

    def __init__(self, measure: Measure, stop: asyncio.Event) -> None:
        self.stop = stop
        self._measure = measure
        self._num_loads = 0

    async def probe(self, settings: RunSettings) -> tuple[RunSettings, RunResult]:
        """Without --ignore-eos where the server refuses it."""
        small = replace(
            settings,
            concurrency=1,
            num_prompts=1,
            duration=None,
            warmup=1,
            input_len=PROBE_INPUT,
            output_len=PROBE_OUTPUT,
        )
        result = await self.measured(small)
        if result["completed"]:
            return settings, result
        if settings.ignore_eos and not self.stop.is_set():
            return await self.probe(replace(settings, ignore_eos=False))
        raise Unusable(f"the server answered none of the first requests: {_reason(result)}")

    async def load(self, settings: RunSettings) -> RunResult:
        return await self.measured(replace(settings, duration=SECONDS_OF_LOAD))

    async def measured(self, settings: RunSettings) -> RunResult:
        """Abandons what is in flight when the time is over."""
        limit = SECONDS_OF_LOAD + SECONDS_TO_END

        def watch(progress: Progress) -> None:
            if progress.elapsed > limit:
                end.set()

        self._num_loads += 1
        async with following(self.stop) as end:
            return await self._measure(settings, self._num_loads, on_record=ignore, on_progress=watch, stop=end)
