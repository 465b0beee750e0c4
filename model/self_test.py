"""The warm-up of a model that has just been loaded, and its self-test: does an answer depend on what goes on beside it?

Drives a runner by batches of its own making, as the engine would: two requests, each alone in fresh blocks; a prompt as
long as a step may be; then the two among others, in other slots, and with their prompts in pieces, in blocks that
others have left. Tokens and log-probabilities must be the same floats. Leaves no slot and no block behind. Knows no
engine; that a backend promises less than this is for others to judge.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from model.batch import (
    Batch,
    Chunk,
    ChunkResult,
    FreedSlot,
    GrownSlot,
    OpenedSlot,
    Runner,
    RunnerInfo,
    SamplingParams,
    num_blocks_for,
)
from model.errors import ModelError

BUDGET_S = 3.0  # for all that need not be: after it no further comparison begins
MAX_PROMPT, MAX_OUTPUT = 40, 3  # tokens of a request: a prompt goes over a block, an answer is read back
NUM_TOP = 5  # log-probabilities beside that of the token chosen
FAULTS = (ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, ValueError)  # that a runner raises

AMONG_OTHERS = "among other requests"
IN_PIECES = "with its prompt in pieces, in blocks that others have left"


@dataclass(frozen=True, slots=True)
class SelfTest:
    is_batch_invariant: bool | None  # None: nothing differed, but not everything was tested
    num_steps: int
    longest_step_s: float
    difference: str | None = None  # what differed first, in words
    not_tested: str | None = None  # what there was no time for

    @property
    def remark(self) -> str | None:
        return self.difference or self.not_tested


def warm_up(
    path: Path, runner: Runner, max_num_seqs: int, max_num_batched_tokens: int, budget_s: float = BUDGET_S
) -> SelfTest:
    """Raises ModelError, naming the model at `path`, where a step fails or its logits are not finite."""
    size = Size.of(runner.info, max_num_seqs, max_num_batched_tokens)
    driver = _Driver(path, runner, deque(range(size.num_blocks)))
    try:
        return _test(driver, size, budget_s)
    finally:
        driver.run([])


@dataclass(frozen=True, slots=True)
class Size:
    """What a runner has room for. The pool is no larger than the most that is in use at once: what comes first gets
    fresh blocks, and all that comes later blocks that others have left."""

    prompt: int  # tokens of each of the two requests
    output: int
    num_together: int  # of the two
    num_others: int  # beside them, and only where both may be there
    longest_prompt: int
    num_blocks: int
    vocab_size: int

    @classmethod
    def of(cls, info: RunnerInfo, max_num_seqs: int, max_num_batched_tokens: int) -> "Size":
        num_together = min(2, max_num_seqs, max_num_batched_tokens, info.num_blocks)
        room = min(info.max_model_len, info.num_blocks // num_together * info.block_size)
        output = min(MAX_OUTPUT, max(1, room // 2))
        prompt = max(1, min(MAX_PROMPT, room - output, max_num_batched_tokens // 3))
        whole_room = min(info.max_model_len, info.num_blocks * info.block_size)
        longest = max(prompt, min(max_num_batched_tokens, whole_room - 1))

        own_blocks = num_together * num_blocks_for(prompt + output - 1, info.block_size)
        other_blocks = num_blocks_for(output, info.block_size)  # of a request whose prompt is one token
        tokens_left = max_num_batched_tokens - num_together * prompt
        num_others = min(max_num_seqs - num_together, (info.num_blocks - own_blocks) // other_blocks, tokens_left)
        num_blocks = max(own_blocks + num_others * other_blocks, num_blocks_for(longest, info.block_size))
        return cls(*(prompt, output, num_together, num_others, longest, num_blocks), vocab_size=info.vocab_size)

    def tokens(self, length: int, number: int) -> tuple[int, ...]:
        """A prompt that is unlike those of other numbers, spread over the vocabulary."""
        return tuple((7919 * number + 104_729 * place + 13) % self.vocab_size for place in range(length))


@dataclass(slots=True)
class _Play:
    """A request's part in some steps: which slot it has, where its prompt is cut, what came out."""

    name: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    slot: int
    num_output: int
    cuts: tuple[int, ...] = ()
    num_fed: int = 0
    results: list[ChunkResult] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return len(self.results) == self.num_output

    def next_chunk(self) -> Chunk:
        ends = (0, *self.cuts, len(self.prompt))
        start, end = next((pair for pair in pairwise(ends) if pair[0] == self.num_fed), (0, 0))
        self.num_fed += (end - start) or 1
        return Chunk(self.slot, self.prompt[start:end], samples=self.num_fed >= len(self.prompt))


@dataclass(slots=True)
class _Driver:
    """Hands out blocks, those that are free for the longest time first, and takes the time of steps."""

    path: Path
    runner: Runner
    free_blocks: deque[int]
    owned: dict[int, list[int]] = field(default_factory=dict)  # by slots that are open
    num_steps: int = 0
    longest_step_s: float = 0.0

    def run(self, plays: Sequence[_Play]) -> None:
        """All of them from their beginnings to their ends. What the last ones had is freed in the first step, and what
        these have is still there when this returns; without any, only the first happens."""
        freed = tuple(FreedSlot(slot, tuple(blocks)) for slot, blocks in self.owned.items())
        self.free_blocks.extend(block for blocks in self.owned.values() for block in blocks)
        self.owned = {play.slot: [] for play in plays}
        opened = tuple(OpenedSlot(play.slot, 1, len(play.prompt), play.sampling) for play in plays)
        self._step(freed, opened, plays)
        while running := [play for play in plays if not play.is_over]:
            self._step((), (), running)

    def _step(self, freed: tuple[FreedSlot, ...], opened: tuple[OpenedSlot, ...], plays: Sequence[_Play]) -> None:
        chunks = tuple(play.next_chunk() for play in plays)
        grown = tuple(grown for play in plays if (grown := self._grow(play)))
        start = time.perf_counter()
        try:
            results = self.runner.run(Batch(freed, opened, grown, chunks)).results
        except FAULTS as error:
            raise ModelError(self.path, f"the warm-up failed: {type(error).__name__}: {error}") from error
        self.longest_step_s = max(self.longest_step_s, time.perf_counter() - start)
        self.num_steps += 1
        for play, chunk, result in zip(plays, chunks, results, strict=True):
            if result.error is not None:
                raise ModelError(
                    self.path, f"the warm-up failed on a prompt of {len(play.prompt)} tokens: {result.error}."
                )
            if chunk.samples:
                play.results.append(result)

    def _grow(self, play: _Play) -> GrownSlot | None:
        own = self.owned[play.slot]
        missing = num_blocks_for(play.num_fed, self.runner.info.block_size) - len(own)
        new = tuple(self.free_blocks.popleft() for _ in range(missing))
        own += new
        return GrownSlot(play.slot, new) if new else None


def _test(driver: _Driver, size: Size, budget_s: float) -> SelfTest:
    deadline = time.monotonic() + budget_s
    alone = [_request(size, number, number % size.num_together) for number in (0, 1)]
    for play in alone:
        driver.run([play])
    _read_longest(driver, size, budget_s)
    scenes = {AMONG_OTHERS: _among_others(size)} if size.num_together == 2 else {}
    scenes[IN_PIECES] = _in_pieces(size)
    difference, not_tested = None, list[str]()
    for name, scene in scenes.items():
        if time.monotonic() > deadline:
            not_tested.append(name)
            continue
        for plays in scene:
            driver.run(plays)
        played = {play.name: play for plays in scene for play in plays}
        difference = difference or _difference(alone, played, name)
    return SelfTest(
        False if difference else None if not_tested else True,
        driver.num_steps,
        driver.longest_step_s,
        difference,
        f"not tested, for lack of time: an answer {', '.join(not_tested)}" if not_tested else None,
    )


def _read_longest(driver: _Driver, size: Size, budget_s: float) -> None:
    """The largest step there may be; where that would take all the time there is, a shorter one tells how long."""
    estimate_s = driver.longest_step_s * size.longest_prompt / size.prompt
    length = max(size.prompt, min(size.longest_prompt, int(size.longest_prompt * budget_s / estimate_s)))
    driver.run([_Play("longest", size.tokens(length, 2), _sampling(size, 0), 0, 1)])
    driver.longest_step_s *= size.longest_prompt / length


def _among_others(size: Size) -> list[list[_Play]]:
    """In the highest slots, which are not those that the requests had alone; all prompts come at once."""
    others = [_other(size, slot) for slot in range(size.num_others)]
    return [[*others, _request(size, 1, size.num_others), _request(size, 0, size.num_others + 1)]]


def _in_pieces(size: Size) -> list[list[_Play]]:
    """Beside each other and a few others, where they may be."""
    cuts = {1, size.prompt // 3} - {0, size.prompt}, {size.prompt // 2} - {0}
    slots = [number % size.num_together for number in (0, 1)]
    pieces = [_request(size, number, slots[number], tuple(sorted(cuts[number]))) for number in (0, 1)]
    others = [_other(size, size.num_together + place) for place in range(min(2, size.num_others))]
    return [[*others, *pieces]] if size.num_together == 2 else [[piece] for piece in pieces]


def _request(size: Size, number: int, slot: int, cuts: tuple[int, ...] = ()) -> _Play:
    name = ("greedy", "seeded")[number]
    return _Play(name, size.tokens(size.prompt, number), _sampling(size, number), slot, size.output, cuts)


def _sampling(size: Size, number: int) -> SamplingParams:
    return SamplingParams(temperature=float(number), seed=number, num_logprobs=min(NUM_TOP, size.vocab_size))


def _other(size: Size, slot: int) -> _Play:
    sampling = SamplingParams(seed=slot, top_p=0.9)
    return _Play(f"other {slot}", size.tokens(1, 3 + slot), sampling, slot, size.output)


def _difference(alone: Sequence[_Play], played: dict[str, _Play], scene: str) -> str | None:
    for play in alone:
        for place, (one, other) in enumerate(zip(play.results, played[play.name].results, strict=True)):
            if one != other:
                return f"token {place} of a {play.name} answer: {_said(one)} alone, {_said(other)} {scene}"
    return None


def _said(result: ChunkResult) -> str:
    most_likely = ", ".join(f"{token_id}: {logprob!r}" for token_id, logprob in result.top_logprobs)
    return f"{result.token_id} with {result.logprob!r} ({most_likely})"
