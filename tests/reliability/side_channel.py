"""python -m tests.reliability.side_channel: whether times to the first token tell what others have asked.

Before each measured request a victim's prompt is sent, which still runs or has just ended. The measured prompt then
either begins as the victim's or with tokens that the server has never seen, by the throw of a coin; all else is the
same: lengths, sampling, the victim, the moment. Were anything of a prompt shared between requests, the one kind would
be faster than the other; AUC is the chance that it is. `--control` shows that this would be seen: the prompts that
begin like the victim's are sent shorter by as many tokens as one block of a cache would have saved.
"""

import argparse
import asyncio
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.bench.loop import in_loop
from tests.reliability.figures import Figure, Separation, percentile, verdict
from tests.reliability.server_process import add_options, serving, words_of
from tests.reliability.wire import Answer, Wire, request

PREFIX, OWN = 224, 32  # tokens: that the victim and the guess may share; behind them
BLOCK = 32  # tokens that a cache with blocks of that size saves at least
VICTIM_TOKENS = 24
NUM_WARM_UPS = 20


@dataclass(frozen=True, slots=True)
class Times:
    """To the first token, in seconds."""

    seen: list[float] = field(default_factory=list)
    unseen: list[float] = field(default_factory=list)


class Trials:
    def __init__(self, wire: Wire, seed: int, num_saved: int) -> None:
        self._wire = wire
        self._rng = random.Random(seed)
        self._num_saved = num_saved

    async def run(self, number: int) -> Times:
        """So many of each kind, in random order."""
        times = Times()
        kinds = [True, False] * number
        self._rng.shuffle(kinds)
        for is_seen in kinds:
            (times.seen if is_seen else times.unseen).append(await self._trial(is_seen))
        return times

    async def _trial(self, is_seen: bool) -> float:
        prefix, other = self._tokens(PREFIX), self._tokens(PREFIX)
        guess = prefix[self._num_saved :] if is_seen else other
        own = self._tokens(OWN)
        asked = _ask([*guess, *own], 1)
        first = asyncio.Event()
        victim = asyncio.create_task(
            self._wire.ask(_ask([*prefix, *self._tokens(OWN)], VICTIM_TOKENS), lambda _: first.set())
        )
        still_runs = self._rng.random() < 0.5
        await (first.wait() if still_runs else victim)
        answer = await self._wire.ask(asked)
        assert answer.status == 200, bytes(answer.body)
        await victim
        return _time_to_first(answer)

    def _tokens(self, number: int) -> list[int]:
        return [self._rng.randrange(1000, 49_000) for _ in range(number)]


def _ask(prompt: Sequence[int], max_tokens: int) -> bytes:
    fields = {"prompt": prompt, "max_tokens": max_tokens, "stream": True, "ignore_eos": True, "temperature": 0}
    return request("/v1/completions", fields)


def _time_to_first(answer: Answer) -> float:
    return answer.first - answer.sent


def figures_of(times: Times, *, is_control: bool = False) -> list[Figure]:
    """`is_control`: then the kinds must be told apart."""
    separation = Separation.of(times.seen, times.unseen)
    distance = abs(separation.auc - 0.5)
    return [
        Figure("median, prefix seen before", percentile(times.seen, 50) * 1000, "ms"),
        Figure("median, prefix never seen", percentile(times.unseen, 50) * 1000, "ms"),
        Figure("AUC", separation.auc),
        Figure("… half width of its 95 % interval", separation.margin),
        Figure("… its distance from 0.5", distance, "", "≥" if is_control else "≤", 0.05),
    ]


async def measure(port: int, number: int, seed: int, num_saved: int) -> Times:
    wire = Wire(port)
    trials = Trials(wire, seed, num_saved)
    await trials.run(NUM_WARM_UPS // 2)
    times = await trials.run(number)
    wire.close()
    return times


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.side_channel")
    parser.add_argument("--num", type=int, default=1000, help="times of each kind; default 1000")
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--control", action="store_true", help="as if a block had been cached")
    add_options(parser)
    given = parser.parse_args(arguments)
    with serving(words_of(given.model, given.flags)) as server:
        times = in_loop(measure(server.port, given.num, given.seed, BLOCK if given.control else 0))
    title = f"times to the first token, 2 × {given.num}, prompts of {PREFIX + OWN} tokens"
    return verdict(title, figures_of(times, is_control=given.control))


if __name__ == "__main__":
    sys.exit(main())
