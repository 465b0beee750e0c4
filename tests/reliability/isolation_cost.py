"""`python -m tests.reliability.isolation_cost [MODEL] [options of slotwise serve]`: what the isolation checks cost.

Runners without checks (two of them: how far equals differ), in canary and in debug mode generate the same answers, 32
requests of 128 tokens with 128 generated, a step of one after a step of the other. Said are ratios of their times,
round by round, for the machine may be busy; of a native step the share that its checks took, by the library's own
clock; and that the tokens are the same.
"""

import statistics
import sys
import time
from dataclasses import replace

import numpy as np

from app.arguments import Parser, add_options, read_settings
from app.settings import ServeSettings
from model.batch import Chunk, OpenedSlot, SamplingParams
from model.load import load
from model.native.runner import NativeRunner
from model.options import IsolationChecksName
from tests.model.torch_backend.driver import Driver

KINDS: tuple[IsolationChecksName, ...] = ("off", "off", "canary", "debug")
GREEDY = SamplingParams(temperature=0.0)
NUM_SLOTS, LENGTH, CHUNK, NUM_ROUNDS = 32, 128, 256, 3


class Bench:
    """The same requests for one runner, step by step."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.seconds = 0.0  # of this round
        self.tokens: list[int | None] = []
        self.total = 0.0

    def read_prompts(self, first: int, prompts: list[tuple[int, ...]]) -> None:
        opened = [OpenedSlot(first + i, 1, LENGTH, GREEDY) for i in range(len(prompts))]
        self._step([Chunk(first + i, prompt) for i, prompt in enumerate(prompts)], opened)

    def decode(self) -> None:
        self._step([Chunk(slot) for slot in range(NUM_SLOTS)], [])

    def end_round(self) -> float:
        self.driver.step([], freed=range(NUM_SLOTS))
        seconds, self.seconds = self.seconds, 0.0
        self.total += seconds
        return seconds

    def _step(self, chunks: list[Chunk], opened: list[OpenedSlot]) -> None:
        start = time.perf_counter()
        results = self.driver.step(chunks, opened)
        self.seconds += time.perf_counter() - start
        assert not any(result.error for result in results), results
        self.tokens += [result.token_id for result in results]


def run_round(benches: list[Bench], prompts: list[tuple[int, ...]]) -> list[float]:
    """Seconds of each. Who comes first in a step changes with every step."""
    at_once = CHUNK // LENGTH
    for turn, first in enumerate(range(0, NUM_SLOTS, at_once)):
        for bench in _in_turn(benches, turn):
            bench.read_prompts(first, prompts[first : first + at_once])
    for turn in range(LENGTH - 1):
        for bench in _in_turn(benches, turn):
            bench.decode()
    return [bench.end_round() for bench in benches]


def _in_turn(benches: list[Bench], turn: int) -> list[Bench]:
    start = turn % len(benches)
    return benches[start:] + benches[:start]


def main() -> None:
    parser = Parser(prog="python -m tests.reliability.isolation_cost", description=__doc__)
    add_options(parser, ServeSettings)
    arguments, unknown = parser.parse_known_args()
    options = read_settings(parser, ServeSettings, vars(arguments), unknown).load_options()
    runners = [load(replace(options, isolation_checks=kind)).runner for kind in KINDS]
    benches = [Bench(Driver(runner)) for runner in runners]
    rng = np.random.default_rng(0)
    ratios: list[list[float]] = []
    for _ in range(NUM_ROUNDS):
        prompts = [tuple(rng.integers(0, runners[0].info.vocab_size, LENGTH).tolist()) for _ in range(NUM_SLOTS)]
        seconds = run_round(benches, prompts)
        ratios.append([seconds[0] / one for one in seconds])
        say(f"{NUM_SLOTS * LENGTH / seconds[0]:.0f} tokens/s without checks; times that: {shown(ratios[-1])}")
        shares = [f"{share_of_checks(bench):.3%}" for bench in benches if isinstance(bench.driver.runner, NativeRunner)]
        say(f"  of the time so far the checks' is {', '.join(shares)}")
    medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
    say(f"medians of {NUM_ROUNDS} rounds: {shown(medians)}")
    assert all(bench.tokens == benches[0].tokens for bench in benches)
    say(f"{len(benches[0].tokens)} results, the same of all")


def share_of_checks(bench: Bench) -> float:
    runner = bench.driver.runner
    assert isinstance(runner, NativeRunner)
    return runner.profile()["isolation"] / 1e9 / bench.total


def shown(ratios: list[float]) -> str:
    return ", ".join(f"{kind} {ratio:.4f}" for kind, ratio in zip(KINDS[1:], ratios[1:], strict=True))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
