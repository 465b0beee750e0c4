"""What is measured: the workload of each cell of the table, which of its figures counts, and which way is better."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tests.peers.workload import Figures, Workload

MeasureName = Literal["decode", "prefill", "ttft"]
MEASURES: tuple[MeasureName, ...] = ("decode", "prefill", "ttft")
FEWEST_REQUESTS = 6  # of one cell, with any --requests but 1


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table."""

    measure: MeasureName
    concurrency: int
    prompt_tokens: int
    output_tokens: int

    @property
    def label(self) -> str:
        unit = {"decode": "output tok/s", "prefill": "prompt+output tok/s", "ttft": "time to first token, ms"}
        return f"{unit[self.measure]}, prompt {self.prompt_tokens}, {self.output_tokens} out, c={self.concurrency}"

    def workload(self, requests_per_worker: int, seed: int, temperature: float) -> Workload:
        fewest = FEWEST_REQUESTS if requests_per_worker > 1 else 1
        rounds = max(requests_per_worker, -(-fewest // self.concurrency))
        total = rounds * self.concurrency
        return Workload(self.concurrency, total, self.prompt_tokens, self.output_tokens, seed, temperature)

    def value(self, figures: Figures) -> float:
        match self.measure:
            case "decode":
                return figures.output_tokens_per_second
            case "prefill":
                return figures.total_tokens_per_second
            case "ttft":
                return figures.time_to_first_token * 1000

    def times_better(self, ours: float, theirs: float) -> float:
        """Above 1: ours is better."""
        return theirs / ours if self.measure == "ttft" else ours / theirs


def cells(measures: Sequence[MeasureName], concurrencies: Sequence[int]) -> list[Cell]:
    found = []
    if "decode" in measures:
        found += [Cell("decode", concurrency, 128, 128) for concurrency in concurrencies]
    if "prefill" in measures:
        found.append(Cell("prefill", 8, 1024, 16))
    if "ttft" in measures:
        found.append(Cell("ttft", 1, 1024, 16))
    return found
