"""`--verify`: requests of a load are asked again, each alone, and must be answered with the same text and token count.

That is the proof that no slot saw another's tokens while many were busy. Some of the load's requests, spread over all
of it, are made repeatable (greedy, or sampled with a seed) and their texts kept; the others are its ordinary company.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.bench.records import Ask, Record, RunSettings
from app.bench.run import run_load

MIN_COMPARED = 20
MAX_KEPT = 64  # replays take as long as they take, one after another
TEMPERATURE = 1.0  # of sampled answers where the run itself is greedy
MAX_SHOWN = 5  # differences
SHOWN_BEFORE, SHOWN_AFTER = 20, 40  # characters around a difference


@dataclass(frozen=True, slots=True)
class Kept:
    """A request and what it was answered under load."""

    ask: Ask
    record: Record

    @property
    def is_seeded(self) -> bool:
        return bool(self.ask.temperature)


@dataclass(frozen=True, slots=True)
class Difference:
    number: int
    is_seeded: bool
    loaded: str
    alone: str
    loaded_tokens: int
    alone_tokens: int
    is_repeatable: bool  # alone, it was answered the same way twice

    @property
    def place(self) -> int:
        """How many characters are the same."""
        pairs = zip(self.loaded, self.alone, strict=False)
        return next((place for place, (one, other) in enumerate(pairs) if one != other), self._shorter)

    @property
    def _shorter(self) -> int:
        return min(len(self.loaded), len(self.alone))

    def __str__(self) -> str:
        kind = "seeded" if self.is_seeded else "greedy"
        shown = slice(max(self.place - SHOWN_BEFORE, 0), self.place + SHOWN_AFTER)
        return (
            f"request {self.number} ({kind}) differs after {self.place} characters:"
            f" under load {self.loaded_tokens} tokens, …{self.loaded[shown]!r};"
            f" alone {self.alone_tokens} tokens, …{self.alone[shown]!r}"
            + ("" if self.is_repeatable else "; asked alone twice, it was answered in two ways")
        )

    def as_json(self) -> dict[str, Any]:
        names = ("number", "is_seeded", "place", "loaded", "alone", "loaded_tokens", "alone_tokens", "is_repeatable")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Verdict:
    num_greedy: int  # compared
    num_seeded: int
    num_distinct: int  # texts among them
    differences: tuple[Difference, ...]
    failures: tuple[str, ...]  # replays that had no answer

    @property
    def num_compared(self) -> int:
        return self.num_greedy + self.num_seeded

    @property
    def shortcomings(self) -> list[str]:
        """Why nothing would be proved even if no answer differed."""
        found = list(self.failures[:MAX_SHOWN])
        if self.num_compared < MIN_COMPARED:
            found.append(f"only {self.num_compared} requests could be compared, and {MIN_COMPARED} are needed")
        elif not (self.num_greedy and self.num_seeded):
            found.append("greedy and seeded requests are needed, and only one kind was answered")
        elif self.num_distinct < 2:
            found.append("all answers are the same, so that one in place of another would not be seen")
        return found

    @property
    def holds(self) -> bool:
        return not self.differences and not self.shortcomings

    def lines(self) -> Iterator[str]:
        """For a person, the outcome first."""
        compared = f"{self.num_greedy} greedy and {self.num_seeded} seeded requests asked again alone"
        if self.holds:
            yield f"verified: {compared}, {self.num_distinct} different texts, every answer the same"
            return
        differing = f"{len(self.differences)} of {self.num_compared} answers differ" if self.differences else ""
        yield f"NOT VERIFIED: {compared}" + (f", {differing}" if differing else "")
        yield from self.shortcomings
        yield from (str(difference) for difference in self.differences[:MAX_SHOWN])
        if any(difference.is_repeatable for difference in self.differences):
            yield "so answers depend on the company they were computed in: another's tokens, or the order of its sums"

    def as_json(self) -> dict[str, Any]:
        return {
            "holds": self.holds,
            "greedy": self.num_greedy,
            "seeded": self.num_seeded,
            "distinct": self.num_distinct,
            "shortcomings": self.shortcomings,
            "differences": [difference.as_json() for difference in self.differences],
        }


class Witness:
    """Chooses requests of a load while it runs, and keeps their answers: every one at first, then every second, every
    fourth and so on, so that they are from all of the load and never many."""

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self._stride = 1
        self._asked: dict[int, Ask] = {}
        self._kept: list[Kept] = []

    @property
    def kept(self) -> tuple[Kept, ...]:
        return tuple(self._kept)

    def mark(self, asks: Iterable[Ask]) -> Iterator[Ask]:
        """The same requests, some of them repeatable and with their texts kept."""
        for ask in asks:
            if ask.number % self._stride == 0 and ask.cancel_after is None:
                self._asked[ask.number] = ask = self._repeatable(ask)
            yield ask

    def _repeatable(self, ask: Ask) -> Ask:
        """Greedy or seeded by the parity of the number's bits: of the multiples of a power of two it is half, too."""
        if ask.number.bit_count() % 2 == 0:
            return replace(ask, keep_text=True, temperature=0.0)
        seed = ask.number if ask.seed is None else ask.seed
        return replace(ask, keep_text=True, temperature=self._settings.temperature or TEMPERATURE, seed=seed)

    def take(self, record: Record) -> None:
        ask = self._asked.pop(record.number, None)
        if ask is None or not record.is_completed or record.text is None:
            return
        self._kept.append(Kept(ask, record))
        while len(self._kept) > MAX_KEPT:
            self._stride *= 2
            self._kept = [kept for kept in self._kept if kept.ask.number % self._stride == 0]


async def replay(settings: RunSettings, kept: Iterable[Kept], stop: asyncio.Event | None = None) -> Verdict:
    """Asks each again when all others are answered; those that differ twice, to tell a server that never repeats itself
    from one whose answers depend on others. `settings` are those of the load."""
    loaded = {one.ask.number: one for one in kept}
    alone = await _ask_alone(settings, [one.ask for one in loaded.values()], stop)
    answered = {number: record for number, record in alone.items() if record.is_completed}
    differing = [number for number, record in answered.items() if _answer(record) != _answer(loaded[number].record)]
    again = await _ask_alone(settings, [loaded[number].ask for number in differing], stop)
    return Verdict(
        num_greedy=sum(not loaded[number].is_seeded for number in answered),
        num_seeded=sum(loaded[number].is_seeded for number in answered),
        num_distinct=len({record.text for record in answered.values()}),
        differences=tuple(_difference(loaded[number], alone[number], again.get(number)) for number in differing),
        failures=tuple(_failures(loaded, alone)),
    )


async def _ask_alone(settings: RunSettings, asks: list[Ask], stop: asyncio.Event | None) -> dict[int, Record]:
    """By number; without those that were not asked because the server was gone, or the user."""
    if not asks:
        return {}
    one_by_one = replace(
        settings, concurrency=1, request_rate=float("inf"), ramp=None, num_prompts=len(asks), duration=None, warmup=0
    )
    records: dict[int, Record] = {}
    await run_load(one_by_one, asks, on_record=lambda record: records.update({record.number: record}), stop=stop)
    return records


def _answer(record: Record) -> tuple[str | None, int]:
    return record.text, record.output_tokens


def _difference(kept: Kept, alone: Record, again: Record | None) -> Difference:
    return Difference(
        number=kept.ask.number,
        is_seeded=kept.is_seeded,
        loaded=kept.record.text or "",
        alone=alone.text or "",
        loaded_tokens=kept.record.output_tokens,
        alone_tokens=alone.output_tokens,
        is_repeatable=again is not None and _answer(alone) == _answer(again),
    )


def _failures(loaded: Mapping[int, Kept], alone: Mapping[int, Record]) -> Iterator[str]:
    for number, record in alone.items():
        if not record.is_completed:
            yield f"request {number} failed when it was asked again: {record.failure}: {record.message}"
    if unasked := len(loaded) - len(alone):
        yield f"{unasked} requests were not asked again"
