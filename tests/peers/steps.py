"""`python -m tests.peers.steps MODEL [options of slotwise serve]`: what a step of the native backend costs, without
HTTP, and how near that is to what the machine allows. Medians; nothing else should run.

The limits: what the threads together read from memory (peaks_program.cpp), and torch's own product of int8 matrices.
"""

import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from app.arguments import Parser
from app.engine.detokenizer import Vocabulary
from app.engine.limits import Limits
from app.engine.request import Request, RequestParams, Submission
from app.engine.scheduler import Scheduler
from model.batch import Chunk, OpenedSlot, SamplingParams
from model.load import LoadedModel
from model.native import build
from model.native.runner import NativeRunner
from tests.model.native.programs import compile_program, run_program
from tests.model.torch_backend.driver import Driver
from tests.peers.first_token import load_as_asked

GREEDY = SamplingParams(temperature=0.0)
NUM_STEPS = 60
PRODUCTS = ("qkv", "output", "gate_up", "down", "head")  # parts of a step that are matrix products
MILLI = 1e-6  # of nanoseconds


class Bench:
    """Steps of one runner, with prompts at random."""

    def __init__(self, runner: NativeRunner) -> None:
        self._runner = runner
        self._driver = Driver(self._runner)
        self._rng = np.random.default_rng(0)

    def prompt(self, length: int) -> tuple[int, ...]:
        return tuple(self._rng.integers(0, self._runner.info.vocab_size, length).tolist())

    def decode(self, num_slots: int, context: int) -> tuple[float, dict[str, float]]:
        """Milliseconds of a step, and of its parts."""
        opened = [OpenedSlot(slot, 1, context, GREEDY) for slot in range(num_slots)]
        for one in opened:
            self._read(one, 256)
        chunks = [Chunk(slot) for slot in range(num_slots)]
        steps = [self._timed(lambda: self._driver.step(chunks)) for _ in range(NUM_STEPS)]
        self._driver.step([], freed=list(range(num_slots)))
        return statistics.median(total for total, _ in steps), medians([parts for _, parts in steps])

    def read(self, length: int, chunk: int) -> tuple[float, dict[str, float]]:
        """Milliseconds of a prompt in chunks, and of their parts."""
        times = []
        for _ in range(5):
            times.append(self._timed(lambda: self._read(OpenedSlot(0, 1, length, GREEDY), chunk)))
            self._driver.step([], freed=[0])
        return statistics.median(total for total, _ in times), medians([parts for _, parts in times])

    def _read(self, opened: OpenedSlot, chunk: int) -> None:
        prompt, opening = self.prompt(opened.num_prompt_tokens), [opened]
        for first in range(0, len(prompt), chunk):
            tokens = prompt[first : first + chunk]
            self._driver.step([Chunk(opened.slot, tokens, first + chunk >= len(prompt))], opening)
            opening = []

    def _timed(self, work: Callable[[], object]) -> tuple[float, dict[str, float]]:
        before, start = self._runner.profile(), time.perf_counter()
        work()
        total, after = time.perf_counter() - start, self._runner.profile()
        return total * 1e3, {part: (after[part] - before[part]) * MILLI for part in after}


def medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {part: statistics.median(row[part] for row in rows) for part in rows[0]}


def memory_bandwidth(num_threads: int, megabytes: int) -> float:
    """GB/s that the threads read together."""
    with tempfile.TemporaryDirectory() as folder:
        program = compile_program("peaks", Path(folder) / "peaks", [], build.find_compiler(), ("-O3", "-march=native"))
        return float(run_program([str(program), str(num_threads), str(megabytes)], Path(folder))[0])


def int8_peak(num_threads: int) -> float:
    """GOP/s of torch's product of two 2048 by 2048 matrices."""
    import torch

    torch.set_num_threads(num_threads)
    a, b = (torch.randint(-128, 127, (2048, 2048), dtype=torch.int8) for _ in range(2))
    times = []
    for _ in range(20):
        start = time.perf_counter()
        torch._int_mm(a, b)
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / statistics.median(times) / 1e9


def limits(bench: Bench, runner: NativeRunner, num_weights: int) -> Iterator[str]:
    info, weight_bytes = runner.info, runner.num_weight_bytes
    num_threads, context = info.num_threads or 1, 200 + NUM_STEPS // 2
    bandwidth, peak = memory_bandwidth(num_threads, math.ceil(weight_bytes / 1e6)), int8_peak(num_threads)
    yield f"{num_threads} threads read the weights' {weight_bytes / 1e6:.0f} MB at {bandwidth:.0f} GB/s"
    yield f"{num_threads} threads multiply {peak:.0f} GOP/s in torch's product of int8 matrices"
    alone, _ = bench.decode(1, 200)
    read = weight_bytes + context * info.block_bytes / info.block_size
    yield f"one request: {read / 1e6:.0f} MB a step, {read / alone / 1e6 / bandwidth:.0%} of what memory allows"
    _, parts = bench.decode(32, 200)
    rate = 32 * 2 * num_weights / sum(parts[part] for part in PRODUCTS) / 1e6
    yield f"32 requests: products at {rate:.0f} GOP/s, {rate / peak:.0%} of torch's"


def steps(bench: Bench, chunk: int) -> Iterator[str]:
    yield "| requests | tokens of context | step, ms | tokens a second | of it, ms |"
    yield "|---|---|---|---|---|"
    for num_slots, context in ((1, 200), (4, 200), (16, 200), (32, 200), (64, 200), (8, 200), (8, 2000)):
        total, parts = bench.decode(num_slots, context)
        yield f"| {num_slots} | {context} | {total:.2f} | {num_slots / total * 1e3:.0f} | {listed(parts)} |"
    total, parts = bench.read(1024, chunk)
    yield f"a prompt of 1024 by {chunk}: {total:.0f} ms, {1024 / total * 1e3:.0f} tokens a second: {listed(parts)}"


def listed(parts: dict[str, float]) -> str:
    return ", ".join(f"{part} {ms:.2f}" for part, ms in parts.items() if ms >= 0.005)


def management(loaded: LoadedModel, num_slots: int = 32) -> str:
    """The share of busy steps that goes to who owns which block: in the slot table, and on the native side."""
    runner = cast(NativeRunner, loaded.runner)
    scheduler = Scheduler(runner.info, Limits(num_slots, 256))
    in_python = timed_methods(scheduler.slots, ("open", "num_missing", "grow", "free", "check_sum"))
    vocabulary = Vocabulary(loaded.tokenizer.token_bytes, loaded.tokenizer.special_token_ids)
    for number in range(2 * num_slots):
        params = RequestParams(max_tokens=128, sampling=GREEDY)
        scheduler.add(Request(Submission(str(number), tuple(range(100, 228)), params), 0, vocabulary, 0.0))
    before, start = runner.profile()["slots"], time.perf_counter()
    while scheduler.has_work:
        batch = scheduler.schedule()
        scheduler.update(batch, runner.run(batch))
        scheduler.slots.check_sum()
    total, native = time.perf_counter() - start, (runner.profile()["slots"] - before) / 1e9
    return (
        f"who owns which block, {2 * num_slots} requests, {num_slots} at once: "
        f"{sum(in_python) / total:.2%} of the time in Python, {native / total:.3%} in C++"
    )


def timed_methods(owner: object, names: Sequence[str]) -> list[float]:
    """Seconds of each call of these from now on."""
    seconds: list[float] = []

    def timed(method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            start = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                seconds.append(time.perf_counter() - start)

        return call

    for name in names:
        setattr(owner, name, timed(getattr(owner, name)))
    return seconds


def first_token(arguments: Sequence[str]) -> str:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tests.peers.first_token", *arguments], check=True)
        times.append(time.perf_counter() - start)
    return f"from the interpreter's start to the first token: {statistics.median(times):.2f} s"


def main() -> None:
    loaded = load_as_asked(Parser(prog="python -m tests.peers.steps", description=__doc__))
    runner = cast(NativeRunner, loaded.runner)
    bench = Bench(runner)
    for lines in (
        steps(bench, 256),
        limits(bench, runner, loaded.num_parameters),
        [management(loaded), first_token(sys.argv[1:])],
    ):
        for line in lines:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
