"""python -m tests.reliability.overload: ten times what the server can do, for minutes.

First the capacity: as many requests at once as there are slots, each followed by the next. Then an open loop at ten
times that rate of requests: what is beyond the queue must be refused at once and in the right words, and what is
accepted must come out as fast as at the peak. Goodput: tokens of completed answers a second. The peak is that of the
same arrivals when they are just enough to keep the queue from running empty, before and after: requests that follow
one another in step share their prompts' steps, and come out faster than any that arrive by chance.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.bench.lag import ClientLoad
from app.bench.loop import in_loop
from tests.reliability.figures import Figure, percentile, slope, verdict
from tests.reliability.server_process import MB, Serving, Usage, add_options, serving, words_of
from tests.reliability.wire import HOST, Answer, Broken, Wire, request

PROMPT, ANSWER = 64, 32  # tokens
NUM_PROMPTS = 512
TIMES = 10  # the capacity, in requests
TIMES_AT_PEAK = 1.5
WARM_UP_S = 5.0
PEAK_S = 20.0
SAMPLE_S = 5.0


@dataclass(slots=True)
class Load:
    """What came of the requests of one load."""

    seconds: float = 0.0
    completed: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    num_broken: int = 0
    refusals: list[float] = field(default_factory=list)  # seconds until each 429
    waits: list[float] = field(default_factory=list)  # seconds until each 200
    num_without_retry_after: int = 0
    usages: list[tuple[float, Usage]] = field(default_factory=list)  # by minutes

    @property
    def goodput(self) -> float:
        return self.completed * ANSWER / self.seconds

    def take(self, answer: Answer, *, counts: bool = True) -> None:
        self.statuses[answer.status] += 1
        if answer.status == 200:
            self.completed += counts
            self.waits.append(answer.seconds)
        elif answer.status == 429:
            self.refusals.append(answer.seconds)
            after = answer.headers.get(b"retry-after", b"")
            self.num_without_retry_after += not (after.isdigit() and int(after) >= 1)


def prompts(seed: int) -> list[bytes]:
    rng = random.Random(seed)
    fields = {"max_tokens": ANSWER, "ignore_eos": True, "temperature": 0}
    bodies = [{"prompt": [rng.randrange(1000, 40_000) for _ in range(PROMPT)]} | fields for _ in range(NUM_PROMPTS)]
    return [request("/v1/completions", body) for body in bodies]


async def closed_loop(wire: Wire, asks: Sequence[bytes], width: int, seconds: float) -> Load:
    load, began = Load(seconds=seconds), time.perf_counter()
    counted_from, until = began + WARM_UP_S, began + WARM_UP_S + seconds

    async def worker(number: int) -> None:
        turn = number
        while time.perf_counter() < until:
            answer = await wire.ask(asks[turn % NUM_PROMPTS])
            load.take(answer, counts=counted_from <= answer.ended < until)
            turn += width

    await asyncio.gather(*(worker(number) for number in range(width)))
    return load


async def open_loop(
    wire: Wire, asks: Sequence[bytes], rate: float, seconds: float, server: Serving, client: ClientLoad
) -> Load:
    """Arrivals as chance has them. What is still open at the end is waited for, and not counted as goodput."""
    load, began = Load(seconds=seconds), time.perf_counter()
    counted_from, until = began + WARM_UP_S, began + WARM_UP_S + seconds
    rng, open_asks = random.Random(2), set[asyncio.Task[None]]()

    async def one(data: bytes) -> None:
        try:
            answer = await wire.ask(data)
            load.take(answer, counts=counted_from <= answer.ended < until)
        except Broken:
            load.num_broken += 1

    sampling = asyncio.create_task(_sample(load, server))
    due, turn = began, 0
    while due < until:
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        client.late_sends.add(max(time.perf_counter() - due, 0.0))
        task = asyncio.create_task(one(asks[turn % NUM_PROMPTS]))
        open_asks.add(task)
        task.add_done_callback(open_asks.discard)
        due, turn = due + rng.expovariate(rate), turn + 1
    sampling.cancel()
    await asyncio.wait_for(asyncio.gather(*open_asks), 120)
    return load


async def _sample(load: Load, server: Serving) -> None:
    began = time.perf_counter()
    while True:
        load.usages.append(((time.perf_counter() - began) / 60, server.usage()))
        await asyncio.sleep(SAMPLE_S)


@dataclass(frozen=True, slots=True)
class Outcome:
    in_step: Load
    peaks: Sequence[Load]  # before and after
    overload: Load
    probe: float  # seconds that an innocent request took afterwards
    num_slots_left: int


def figures_of(outcome: Outcome) -> list[Figure]:
    peak = sum(load.goodput for load in outcome.peaks) / len(outcome.peaks)
    over = outcome.overload
    others = sum(number for status, number in over.statuses.items() if status not in (200, 429))
    settled = over.usages[len(over.usages) // 5 :]
    growth = slope([minute for minute, _ in settled], [usage.memory / MB for _, usage in settled])
    return [
        Figure("as many as there are slots, in step", outcome.in_step.goodput, "tok/s"),
        Figure("peak of arrivals by chance, before and after", peak, "tok/s"),
        Figure("goodput under overload", over.goodput, "tok/s"),
        Figure("… of the peak", 100 * over.goodput / peak, "%", "≥", 95),
        Figure("accepted and answered", over.statuses[200]),
        Figure("refused with 429", over.statuses[429], "", "≥", 1),
        Figure("… without Retry-After of ≥ 1 whole seconds", over.num_without_retry_after, "", "=", 0),
        Figure("… p99 of the time until it", percentile(over.refusals, 99) * 1000, "ms", "≤", 50),
        Figure("… the longest", max(over.refusals, default=0) * 1000, "ms"),
        Figure("other statuses", others, "", "=", 0),
        Figure("lost connections", over.num_broken, "", "=", 0),
        Figure("p99 of accepted answers", percentile(over.waits, 99), "s"),
        Figure("RssAnon + VmSwap, slope behind a fifth", growth, "MB/min", "<", 1),
        Figure("an innocent request afterwards", outcome.probe * 1000, "ms", "≤", 1000),
        Figure("slots left", outcome.num_slots_left, "", "=", 0),
    ]


async def measure(server: Serving, width: int, minutes: float) -> tuple[Outcome, list[str]]:
    wire, client = Wire(server.port), ClientLoad()
    in_step = await closed_loop(wire, prompts(0), width, PEAK_S)
    capacity = in_step.goodput / ANSWER
    before = await open_loop(wire, prompts(1), TIMES_AT_PEAK * capacity, PEAK_S, server, ClientLoad())
    async with client.measured():
        over = await open_loop(wire, prompts(2), TIMES * capacity, minutes * 60, server, client)
    probe = await wire.ask(prompts(3)[0])
    slots = await wire.get("/slots")
    after = await open_loop(wire, prompts(4), TIMES_AT_PEAK * capacity, PEAK_S, server, ClientLoad())
    wire.close()
    lag = client.as_json(HOST)
    share = f"{TIMES * capacity:.0f} requests a second; the client took {lag['cpu_share']:.0%} of a core"
    return Outcome(in_step, (before, after), over, probe.seconds, len(slots["slots"])), [share, *lag["warnings"]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.overload")
    parser.add_argument("--minutes", type=float, default=5.0, help="of overload; default 5")
    parser.add_argument("--width", type=int, default=16, help="slots; default 16")
    parser.add_argument("--queue", type=int, default=32, help="requests that may wait; default 32")
    add_options(parser)
    given = parser.parse_args(arguments)
    limits = ("--max-num-seqs", str(given.width), "--max-queued-requests", str(given.queue))
    with serving(words_of(given.model, given.flags, *limits)) as server:
        outcome, notes = in_loop(measure(server, given.width, given.minutes))
    return verdict("overload", figures_of(outcome), notes)


if __name__ == "__main__":
    sys.exit(main())
