"""What a peer is asked to do, and what came of it. Only the standard library: `openvino_process.py` reads this in an
interpreter that has none of this project's dependencies.

All times are seconds of one monotonic clock.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

FIRST_ID, LAST_ID = 100, 6000  # ids that are ordinary tokens in every vocabulary we meet (MiniMind's has 6400)


@dataclass(frozen=True, slots=True)
class Workload:
    """A closed loop: `concurrency` workers, each of which sends its next request when its last one has ended."""

    concurrency: int
    num_requests: int
    prompt_tokens: int
    output_tokens: int
    seed: int
    temperature: float = 0.0

    def prompt(self, number: int) -> list[int]:
        """Of the request with this number. No two share a prefix, whatever their workload's seeds."""
        draw = random.Random(f"{self.seed}/{self.prompt_tokens}/{self.concurrency}/{number}")
        return [draw.randint(FIRST_ID, LAST_ID) for _ in range(self.prompt_tokens)]

    def warm_up(self) -> "Workload":
        """One short request for each worker, other prompts."""
        return Workload(self.concurrency, self.concurrency, 16, 8, self.seed + 1_000_003, self.temperature)


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's times. Without speculation a token is an event, but an event may be late by a token whose bytes end
    inside a character; so tokens are counted by the server (`usage`) and gaps are those between events."""

    sent: float
    events: tuple[float, ...]  # when each text came
    prompt_tokens: int
    output_tokens: int

    @property
    def time_to_first_token(self) -> float:
        return self.events[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.events, self.events[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Figures:
    """A workload's outcome."""

    wall: float  # s, from the first request's sending to the last token
    output_tokens_per_second: float
    total_tokens_per_second: float  # prompt and output
    time_to_first_token: float  # s, median over requests
    gap_median: float  # s, between the events of a stream
    gap_99: float
    client_cpu: float  # share of one core that the client used; nan where there is none

    @classmethod
    def of(cls, answers: Sequence[Answer], client_cpu_seconds: float = float("nan")) -> "Figures":
        wall = max(answer.events[-1] for answer in answers) - min(answer.sent for answer in answers)
        output = sum(answer.output_tokens for answer in answers)
        gaps = sorted(gap for answer in answers for gap in answer.gaps) or [float("nan")]
        return cls(
            wall=wall,
            output_tokens_per_second=output / wall,
            total_tokens_per_second=(output + sum(answer.prompt_tokens for answer in answers)) / wall,
            time_to_first_token=statistics.median(answer.time_to_first_token for answer in answers),
            gap_median=statistics.median(gaps),
            gap_99=gaps[len(gaps) * 99 // 100],
            client_cpu=client_cpu_seconds / wall,
        )
