"""Plays timed traces on the real engine and the native backend, and holds every answer against the one that its request
has alone, bit for bit.

python -m tests.reliability.traces --num 1000 [--seed 0]

Most traces are stepped by hand, so that a seed is the same trace each time; in every eighth the engine has its thread.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from app.engine.limits import Limits
from app.engine.request import FinishReason, RequestParams, TokenEvent
from model.batch import Batch, FreedSlot, GrownSlot, OpenedSlot, SamplingParams, TargetLogprob
from model.config import ModelConfig
from model.formats.checkpoint import Checkpoint
from model.native.runner import NativeOptions, NativeRunner
from tests.model.random_checkpoint import random_checkpoint
from tests.reliability.trace_plan import WEIGHTS, Arrival, Phase, Trace, draw
from tests.reliability.trace_play import Difference, Player, Playing, play

MakeRunner = Callable[[Checkpoint, NativeOptions], NativeRunner]


@dataclass(frozen=True)
class Answer:
    """All that came of one request."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...]
    prompt_logprobs: tuple[TargetLogprob, ...]
    pooled: tuple[float, ...] | None
    text: str
    finish_reason: FinishReason | None
    stop_reason: int | str | None
    error: str | None

    def begins(self, whole: "Answer") -> bool:
        """Whether it is what a client had of `whole` when it left."""
        num, num_prompt = len(self.token_ids), len(self.prompt_logprobs)
        return (
            (self.token_ids, self.logprobs, self.top_logprobs)
            == (whole.token_ids[:num], whole.logprobs[:num], whole.top_logprobs[:num])
            and self.prompt_logprobs == whole.prompt_logprobs[:num_prompt]
            and self.pooled in (None, whole.pooled)
        )


def answer_of(events: list[TokenEvent]) -> Answer:
    *others, last = events
    if last.finish_reason is None or any(event.finish_reason for event in others):
        raise Difference("a request has one last event")
    tokens = [event for event in events if event.token_id is not None]
    return Answer(
        token_ids=tuple(event.token_id for event in tokens if event.token_id is not None),
        logprobs=tuple(event.logprob for event in tokens),
        top_logprobs=tuple(event.top_logprobs for event in tokens),
        prompt_logprobs=tuple(target for event in events for target in event.prompt_logprobs),
        pooled=last.pooled,
        text="".join(event.text for event in events),
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
        error=last.error,
    )


@dataclass
class Tally:
    """What happened in all traces."""

    counts: Counter[str] = field(default_factory=Counter)
    cancels: Counter[Phase] = field(default_factory=Counter)

    def __str__(self) -> str:
        cancels = ", ".join(f"{self.cancels[phase]} {phase}" for phase in Phase)
        return ", ".join(f"{number} {name}" for name, number in self.counts.items()) + f"; cancels: {cancels}"

    @property
    def never_seen(self) -> list[str]:
        wanted = ("preemptions", "requests compared", "cancelled prefixes compared", "traces with a thread", "retries")
        return [name for name in wanted if not self.counts[name]] + [p for p in Phase if not self.cancels[p]]


@cache
def checkpoint_of(config: ModelConfig) -> Checkpoint:
    return random_checkpoint(config, seed=3)


def options_of(trace: Trace, num_threads: int, **others: object) -> NativeOptions:
    return NativeOptions(num_threads=num_threads, **WEIGHTS[trace.weights], **others)  # type: ignore[arg-type]


async def answer_alone(trace: Trace, arrival: Arrival) -> Answer:
    """In an engine and a runner of its own: its prompt at once, by one thread, with room for everything."""
    runner = NativeRunner(checkpoint_of(trace.config), options_of(trace, 1, max_num_seqs=1))
    player = Player(runner, Limits(max_num_seqs=1, max_num_batched_tokens=256))
    playing = Playing(arrival, *player.submit("alone", arrival.prompt, arrival.params))
    while not playing.reading.done():
        await player.tick()
    await player.close()
    return answer_of(playing.events)


async def answers_together(trace: Trace, make_runner: MakeRunner, tally: Tally) -> list[tuple[Playing, Answer]]:
    block_bytes = NativeRunner(checkpoint_of(trace.config), options_of(trace, 1)).info.block_bytes
    options = options_of(
        trace,
        trace.num_threads,
        max_num_seqs=trace.max_num_seqs,
        max_num_batched_tokens=trace.max_num_batched_tokens,
        kv_cache_memory=trace.num_blocks * block_bytes,
        debug_poison=trace.poisons,
    )
    runner = make_runner(checkpoint_of(trace.config), options)
    empty_block = runner.contents(0).copy()
    limits = Limits(trace.max_num_seqs, trace.max_num_batched_tokens)
    player = Player(runner, limits, trace.has_thread)
    try:
        played = await play(trace, player)
    finally:
        await player.close()
    check_that_nothing_is_left(player, runner, empty_block)
    count(tally, trace, player, played)
    return [(playing, answer_of(playing.events)) for playing in played]


def check_that_nothing_is_left(player: Player, runner: NativeRunner, empty_block: np.ndarray) -> None:
    """No slot, no block with an owner or with contents; what is somebody's the runner would not open or give away."""
    scheduler = player.engine._scheduler
    scheduler.slots.check()
    if scheduler.has_work or scheduler.slots.num_used_blocks or player.engine._streams:
        raise Difference("something is left of those that ended")
    num_blocks, num_slots = runner.info.num_blocks, scheduler.slots.num_slots
    for block in range(num_blocks):
        if not np.array_equal(runner.contents(block), empty_block):
            raise Difference(f"block {block} is not destroyed")
    opened = tuple(OpenedSlot(slot, 1, 1, SamplingParams()) for slot in range(num_slots))
    all_blocks = tuple(range(num_blocks))
    NativeRunner.run(runner, Batch(opened=opened, grown=(GrownSlot(0, all_blocks),)))
    NativeRunner.run(runner, Batch(freed=(FreedSlot(0, all_blocks), *(FreedSlot(i, ()) for i in range(1, num_slots)))))


def count(tally: Tally, trace: Trace, player: Player, played: list[Playing]) -> None:
    num_preemptions = player.engine._scheduler.num_preemptions
    tally.counts["traces"] += 1
    tally.counts["traces with a thread"] += trace.has_thread
    tally.counts["traces with preemptions"] += num_preemptions > 0
    tally.counts["steps"] += player.num_steps
    tally.counts["requests"] += len(played)
    tally.counts["retries"] += sum(playing.arrival.after is not None for playing in played)
    tally.counts["preemptions"] += num_preemptions
    tally.cancels.update(playing.left_in for playing in played if playing.left_in)


async def check(trace: Trace, make_runner: MakeRunner, tally: Tally) -> None:
    """Raises Difference."""
    alone: dict[tuple[tuple[int, ...], RequestParams], Answer] = {}
    for playing, answer in await answers_together(trace, make_runner, tally):
        arrival = playing.arrival
        asked = (arrival.prompt, arrival.params)
        if asked not in alone:
            alone[asked] = await answer_alone(trace, arrival)
        whole = alone[asked]
        is_cut = answer.finish_reason is FinishReason.ABORT and playing.left_in
        if not (answer.begins(whole) if is_cut else answer == whole):
            raise Difference(f"request {arrival.number} has\n{answer}\nand alone\n{whole}")
        tally.counts["cancelled prefixes compared" if is_cut else "requests compared"] += 1
        tally.counts["tokens compared"] += len(answer.token_ids)


def failure_of(trace: Trace, make_runner: MakeRunner = NativeRunner, tally: Tally | None = None) -> str:
    """What is wrong with it; empty if nothing is."""
    try:
        asyncio.run(check(trace, make_runner, tally or Tally()))
    except Exception as error:  # whatever shows: a difference, a broken assertion, a step that is refused
        return f"{type(error).__name__}: {error}"
    return ""


def smallest(trace: Trace, make_runner: MakeRunner = NativeRunner) -> Trace:
    """With as few requests as fail all the same."""
    for arrival in trace.arrivals:
        smaller = trace.without(arrival.number)
        if smaller.arrivals and failure_of(smaller, make_runner):
            return smallest(smaller, make_runner)
    return trace


def run_traces(first: int, how_many: int, make_runner: MakeRunner = NativeRunner) -> Tally:
    """Raises Difference with the least that shows it."""
    tally = Tally()
    for seed in range(first, first + how_many):
        if problem := failure_of(draw(seed), make_runner, tally):
            raise Difference(f"{problem}\n{smallest(draw(seed), make_runner)}")
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.traces")
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    options = parser.parse_args()
    try:
        tally = run_traces(options.seed, options.num)
    except Difference as difference:
        sys.stdout.write(f"{difference}\n")
        return 1
    sys.stdout.write(f"{tally}; differences: 0\n")
    missing = tally.never_seen
    sys.stdout.write(f"never seen: {', '.join(missing)}\n" if missing else "")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
