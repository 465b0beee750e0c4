"""Prompts of random words whose length is exactly what was asked for, as the server counts it in `usage`.

A prompt is built to a budget of tokens, with what each word costs by the server's tokenizer. What else the server adds
(a first token, a chat template), and what a word costs where there is no tokenizer to ask, is found by two requests:
tokens = slope x budget + offset.
"""

import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias

from app.bench.errors import Unusable
from app.bench.tokenizer import ServerTokenizer
from app.bench.words import common_words

OPENING = "The"  # begins every text: a word without a space before it has a cost of its own
FILLER = "x"  # where no word is cheap enough: a token where bytes or characters are tokens
ENOUGH_WORDS = 32  # of one token each, to do without the others
MAX_MEASURED = 256  # tokens of a prompt that only measures

Prompt: TypeAlias = str | tuple[int, ...]
Probe = Callable[[Prompt], Awaitable[int]]  # how many tokens the server counts


class Builder(Protocol):
    def build(self, rngs: Sequence[random.Random], budgets: Sequence[int]) -> Prompt:
        """Parts one after the other, each of about `budget` tokens and drawn from its own generator."""


@dataclass(frozen=True, slots=True)
class WordBuilder:
    costs: dict[str, int]  # of each word, with a space before it

    @classmethod
    async def measured(cls, tokenizer: ServerTokenizer | None) -> Self:
        words = common_words()
        if tokenizer is None:
            return cls(dict.fromkeys(words, 1))
        alone = len(await tokenizer.encode(OPENING))
        if len(await tokenizer.encode(" ".join([OPENING, *words]))) == alone + len(words):
            return cls(dict.fromkeys(words, 1))
        costs = {word: len(await tokenizer.encode(f"{OPENING} {word}")) - alone for word in words}
        single = {word: cost for word, cost in costs.items() if cost == 1}
        return cls(single if len(single) >= ENOUGH_WORDS else costs)

    def build(self, rngs: Sequence[random.Random], budgets: Sequence[int]) -> Prompt:
        return OPENING + "".join(self._part(rng, budget) for rng, budget in zip(rngs, budgets, strict=True))

    def _part(self, rng: random.Random, budget: int) -> str:
        words = tuple(self.costs)
        if set(self.costs.values()) == {1}:
            return "".join(f" {word}" for word in rng.choices(words, k=budget))
        parts = []
        while fitting := [word for word in rng.sample(words, ENOUGH_WORDS) if self.costs[word] <= budget]:
            parts.append(f" {fitting[0]}")
            budget -= self.costs[fitting[0]]
        return "".join(parts) + FILLER * budget


@dataclass(frozen=True, slots=True)
class IdBuilder:
    token_ids: tuple[int, ...]  # those of common words: none has a special meaning

    @classmethod
    async def measured(cls, tokenizer: ServerTokenizer | None) -> Self:
        """Raises Unusable."""
        if tokenizer is None:
            raise Unusable("the server has no /tokenize to take token ids from; leave out --token-ids")
        return cls(tuple(sorted(set(await tokenizer.encode(" ".join(["", *common_words()]))))))

    def build(self, rngs: Sequence[random.Random], budgets: Sequence[int]) -> Prompt:
        parts = (rng.choices(self.token_ids, k=budget) for rng, budget in zip(rngs, budgets, strict=True))
        return tuple(token_id for part in parts for token_id in part)


@dataclass(frozen=True, slots=True)
class RandomPrompts:
    """Prompts with the length that the server will count."""

    builder: Builder
    slope: float
    offset: float
    seed: int
    prefix_len: int  # tokens that all prompts have in common, at the beginning

    @classmethod
    async def calibrated(cls, builder: Builder, probe: Probe, num_tokens: int, seed: int, prefix_len: int = 0) -> Self:
        """For prompts of about `num_tokens`."""
        rng = random.Random(f"calibration {seed}")
        long = max(min(num_tokens, MAX_MEASURED), 2)
        short = long // 2
        at_short, at_long = [await probe(builder.build([rng], [budget])) for budget in (short, long)]
        slope = (at_long - at_short) / (long - short)
        if slope <= 0:
            raise Unusable("the server counts no more tokens in a longer prompt: its usage cannot be right")
        return cls(builder, slope, at_short - slope * short, seed, prefix_len)

    def prompt(self, rng: random.Random, num_tokens: int) -> Prompt:
        """Of `shortest` tokens or more; the shared beginning counts."""
        assert num_tokens >= self.shortest
        budget = round((num_tokens - self.offset) / self.slope) - self.prefix_len
        return self.builder.build([random.Random(f"prefix {self.seed}"), rng], [self.prefix_len, budget])

    @property
    def shortest(self) -> int:
        """What the server adds is there in any prompt."""
        return max(math.ceil(self.offset + self.slope * self.prefix_len), 1)
