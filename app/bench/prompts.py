"""What is asked: prompts and lengths drawn by a seed, as an endless series of requests for each load.

The same seed gives the same requests, whatever the server does and however fast they are sent; each load of a command
has requests of its own, so that none finds its prompts in the server's prefix cache.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, cycle
from typing import Protocol

from app.bench.datasets import Prompt
from app.bench.random_prompts import RandomPrompts
from app.bench.records import Ask


@dataclass(frozen=True, slots=True)
class Draft:
    """A request without its number."""

    prompt: Prompt
    num_prompt_tokens: int | None
    max_tokens: int


class Workload(Protocol):
    def drafts(self, rng: random.Random) -> Iterator[Draft]:
        """Without an end."""


@dataclass(frozen=True, slots=True)
class FixedLengths:
    """Both lengths within `spread` of the middle: 0.1 for 10 % more or less."""

    input_len: int
    output_len: int
    spread: float = 0.0

    def draw(self, rng: random.Random) -> tuple[int, int]:
        return self._near(rng, self.input_len), self._near(rng, self.output_len)

    def _near(self, rng: random.Random, length: int) -> int:
        return max(rng.randint(math.ceil(length * (1 - self.spread)), math.floor(length * (1 + self.spread))), 1)


@dataclass(frozen=True, slots=True)
class ConversationLengths:
    """Lengths as people's conversations have them, many short and some long: log-normal, with the means that the vLLM
    paper gives for ShareGPT (Kwon et al. 2023, figure 11: 161 tokens in, 338 out), both scaled by `scale`."""

    scale: float = 1.0
    shortest: int = 4
    longest: int = 1024
    input_mean: float = 161.0
    output_mean: float = 338.0
    sigma: float = 1.0

    def draw(self, rng: random.Random) -> tuple[int, int]:
        return self._length(rng, self.input_mean), self._length(rng, self.output_mean)

    def _length(self, rng: random.Random, mean: float) -> int:
        drawn = rng.lognormvariate(math.log(mean) - self.sigma**2 / 2, self.sigma)
        return max(round(min(max(drawn, self.shortest), self.longest) * self.scale), self.shortest)


@dataclass(frozen=True, slots=True)
class RandomWorkload:
    prompts: RandomPrompts
    lengths: FixedLengths | ConversationLengths

    def drafts(self, rng: random.Random) -> Iterator[Draft]:
        while True:
            input_len, output_len = self.lengths.draw(rng)
            input_len = max(input_len + self.prompts.prefix_len, self.prompts.shortest)
            yield Draft(self.prompts.prompt(rng, input_len), input_len, output_len)


@dataclass(frozen=True, slots=True)
class FileWorkload:
    """Requests of a file, shuffled, and again from the first once all were asked; the answers' length is the given one,
    else the file's."""

    rows: Sequence[tuple[Prompt, int | None]]
    output_len: int | None
    default_len: int = 128  # where neither says

    def drafts(self, rng: random.Random) -> Iterator[Draft]:
        for prompt, length in cycle(rng.sample(self.rows, len(self.rows))):
            yield Draft(prompt, None, self.output_len or length or self.default_len)


@dataclass(frozen=True, slots=True)
class AskSource:
    workload: Workload
    seed: int
    is_seeded: bool  # each request tells the server a seed
    cancel_fraction: float = 0.0

    def resized(self, input_len: int | None, output_len: int | None) -> "AskSource":
        """With lengths of a settings' own, where they are what the requests are made of."""
        workload = self.workload
        if not (isinstance(workload, RandomWorkload) and isinstance(workload.lengths, FixedLengths)):
            return self
        lengths = workload.lengths
        lengths = replace(
            lengths, input_len=input_len or lengths.input_len, output_len=output_len or lengths.output_len
        )
        return replace(self, workload=replace(workload, lengths=lengths))

    def asks(self, load: int) -> Iterator[Ask]:
        """Without an end."""
        rng = random.Random(f"load {load} of seed {self.seed}")
        for number, draft in zip(count(), self.workload.drafts(random.Random(rng.random())), strict=False):
            yield Ask(
                number=number,
                prompt=draft.prompt,
                num_prompt_tokens=draft.num_prompt_tokens,
                max_tokens=draft.max_tokens,
                seed=rng.randrange(1 << 31) if self.is_seeded else None,
                cancel_after=self._cancel_after(rng, draft.max_tokens),
            )

    def _cancel_after(self, rng: random.Random, max_tokens: int) -> int | None:
        is_cancelled, piece = rng.random() < self.cancel_fraction, rng.randint(1, max(max_tokens - 1, 1))
        return piece if is_cancelled else None
