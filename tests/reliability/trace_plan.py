"""Random timed traces: who arrives when, asks for what, leaves in which phase and comes back, on which model and in how
small a pool. A trace is drawn from its seed alone, and says itself in a few lines."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from random import Random

from app.engine.request import Dry, RequestParams
from model.batch import SamplingParams, num_blocks_for
from model.config import ModelConfig
from model.native.runner import BLOCK_SIZE
from tests.model.random_checkpoint import LLAMA, QWEN2, QWEN3, QWEN3_MOE

CONFIGS = (LLAMA, QWEN2, QWEN3, QWEN3_MOE)
VOCAB_SIZE = LLAMA.vocab_size
WEIGHTS = {
    "float32": {"dtype": "float32", "kv_dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "auto", "weights": "int8"},
    "int4": {"dtype": "auto", "weights": "int4", "kv_dtype": "int8"},
}
ODD = sum(1 << token_id for token_id in range(1, VOCAB_SIZE, 2)).to_bytes(-(-VOCAB_SIZE // 8), "little")
EVERY_NTH_HAS_A_THREAD = 8


class Phase(StrEnum):
    QUEUE = "queue"
    PREFILL = "prefill"
    DECODE = "decode"
    SET_BACK = "set back"  # its slot was taken from it, and it waits again
    RECOMPUTED = "recomputed"  # it has a slot again, and is read again
    ENDED = "ended"  # its last event is on the way


# Few are ever set back, so that more of them have to want to leave there.
PHASES_TO_LEAVE_IN = (*Phase, Phase.SET_BACK, Phase.RECOMPUTED, Phase.SET_BACK, Phase.RECOMPUTED)


class OddTokens:
    """A constraint: a mask for each token, computed beside the step."""

    def allowed(self) -> bytes:
        return ODD

    def accept(self, token_id: int) -> None:
        assert token_id % 2


@dataclass(frozen=True)
class Leave:
    phase: Phase
    num_ticks: int  # seen in that phase so often


@dataclass(frozen=True)
class Arrival:
    """A request. `tick`: counted from the start, or from the end of the request that it comes `after`."""

    number: int
    prompt: tuple[int, ...]
    params: RequestParams
    tick: int
    after: int | None = None
    leave: Leave | None = None

    def __str__(self) -> str:
        when = f"at {self.tick}" if self.after is None else f"{self.tick} after the end of {self.after}"
        leave = f", leaves in {self.leave.phase} x {self.leave.num_ticks}" if self.leave else ""
        asked = unusual(self.params) | unusual(self.params.sampling)
        words = ", ".join(f"{name} {value}" for name, value in asked.items() if name != "sampling")
        return f"  {self.number}: {when}{leave}, prompt {len(self.prompt)}, {words}"


@dataclass(frozen=True)
class Trace:
    seed: int
    config: ModelConfig
    weights: str
    num_threads: int
    poisons: bool
    max_num_seqs: int
    max_num_batched_tokens: int
    num_blocks: int
    has_thread: bool  # the engine's own; else it is stepped by hand, and the trace is the same each time
    arrivals: tuple[Arrival, ...]

    def __str__(self) -> str:
        head = (
            f"seed {self.seed}: {self.config.architecture} {self.weights}, threads {self.num_threads}, "
            f"slots {self.max_num_seqs}, tokens a step {self.max_num_batched_tokens}, blocks {self.num_blocks}, "
            f"poison {self.poisons}, engine thread {self.has_thread}"
        )
        return "\n".join([head, *map(str, self.arrivals)])

    def without(self, number: int) -> "Trace":
        """Nor those that come after it."""
        gone, kept = {number}, list[Arrival]()
        for arrival in self.arrivals:
            if arrival.number in gone or arrival.after in gone:
                gone.add(arrival.number)
            else:
                kept.append(arrival)
        return replace(self, arrivals=tuple(kept))


def unusual(params: RequestParams | SamplingParams) -> dict[str, object]:
    """What differs from the defaults."""
    values = {field.name: (getattr(params, field.name), field.default) for field in fields(params)}
    return {name: value for name, (value, default) in values.items() if value != default}


def draw(seed: int) -> Trace:
    rng = Random(seed)
    has_thread = seed % EVERY_NTH_HAS_A_THREAD == EVERY_NTH_HAS_A_THREAD - 1
    budget = rng.choice((8, 17, 32, 33, 48, 64, 256))
    arrivals = tuple(Draw(rng, budget, has_thread).arrivals(rng.randint(5, 10)))
    needed = max(num_blocks_for(len(one.prompt) + one.params.max_tokens, BLOCK_SIZE) for one in arrivals)
    return Trace(
        seed=seed,
        config=rng.choice(CONFIGS),
        weights=rng.choice([*WEIGHTS]),
        num_threads=rng.choice((1, 1, 1, 2)),
        poisons=rng.random() < 0.5,
        max_num_seqs=rng.choice((2, 4, 6, 8)),
        max_num_batched_tokens=budget,
        num_blocks=needed + rng.choice((0, 0, 1, 1, 2, 3, needed, 8 * needed)),
        has_thread=has_thread,
        arrivals=arrivals,
    )


class Draw:
    """Draws the requests of one trace."""

    def __init__(self, rng: Random, budget: int, has_thread: bool) -> None:
        self._rng = rng
        self._has_thread = has_thread
        self._lengths = (1, 2, 31, 32, 33, 63, 64, 65, 96, 97, budget - 1, budget, budget + 1)
        self._is_talkative = rng.random() < 0.3  # short prompts, long answers: many are set back
        self._num = 0

    def arrivals(self, how_many: int) -> Iterator[Arrival]:
        crowd = self._rng.choice((0, 5, 40))  # ticks in which they come
        for _ in range(how_many):
            first = self._arrival(self._prompt(), self._params(), self._rng.randint(0, crowd))
            yield first
            if first.leave:
                yield from self._retry(first)
            elif self._rng.random() < 0.15:
                yield from self._another_and_it_again(first)

    def _retry(self, gone: Arrival) -> Iterator[Arrival]:
        """It comes back with what it asked before, and may leave again."""
        while gone.leave and self._rng.random() < 0.7:
            gone = self._arrival(gone.prompt, gone.params, self._rng.randint(0, 3), gone.number)
            yield gone

    def _another_and_it_again(self, first: Arrival) -> Iterator[Arrival]:
        """A, B, A: each after the one before, so most likely in its slot and blocks."""
        other = replace(self._arrival(self._prompt(), self._params(), 0, first.number), leave=None)
        yield other
        yield self._arrival(first.prompt, first.params, 0, other.number)

    def _arrival(self, prompt: tuple[int, ...], params: RequestParams, tick: int, after: int | None = None) -> Arrival:
        self._num += 1
        leave = None
        if self._rng.random() < 0.4:
            leave = Leave(self._rng.choice(PHASES_TO_LEAVE_IN), self._rng.choice((1, 1, 2, 3, 8)))
        return Arrival(self._num, prompt, params, tick, after, leave)

    def _prompt(self) -> tuple[int, ...]:
        length = min(self._rng.choice((*self._lengths, self._rng.randint(1, 130))), 33 if self._is_talkative else 130)
        return tuple(self._rng.choices(range(VOCAB_SIZE), k=length))

    def _params(self) -> RequestParams:
        rng = self._rng
        max_tokens = (
            rng.randint(64, 128) if self._is_talkative else rng.choice((0, 1, 2, *rng.choices(range(3, 80), k=9)))
        )
        ends = frozenset(rng.choices(range(VOCAB_SIZE), k=0 if self._is_talkative else rng.choice((0, 0, 8))))
        return RequestParams(
            max_tokens,
            self._sampling(ends, max_tokens),
            stop=rng.choice(((), (), ("77", "1 3"))),
            stop_token_ids=ends,
            bad_words=rng.choice(((), (), tuple((rng.randrange(VOCAB_SIZE),) for _ in range(20)))),
            dry=rng.choice((None, None, Dry(2.0))),
            constraint=rng.choice((None, OddTokens())) if self._has_thread else None,
            wants_prompt_logprobs=rng.random() < 0.2,
            pools=rng.random() < 0.1,
            priority=rng.choice((0, 0, 0, -1, 1)),
        )

    def _sampling(self, ends: frozenset[int], max_tokens: int) -> SamplingParams:
        rng = self._rng
        common = SamplingParams(
            temperature=0.0,
            seed=rng.getrandbits(64),
            num_logprobs=rng.choice((0, 1, 5)),
            num_prompt_logprobs=rng.choice((0, 2)),
            min_tokens=min(4, max_tokens) if ends else 0,
            suppressed_token_ids=tuple(sorted(ends)),
            logit_bias=rng.choice(((), ((rng.randrange(VOCAB_SIZE), 3.0),))),
        )
        penalised = {"repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.4}
        filters: list[dict[str, float]] = [{}, {"top_k": 20}, {"top_p": 0.9}, {"min_p": 0.05}, {"typical_p": 0.8}]
        filters += [{"top_n_sigma": 1.5}, {"xtc_probability": 0.5}]
        changes = [{}, penalised, {"temperature": 1.0} | rng.choice(filters), penalised | {"temperature": 0.8}]
        return replace(common, **rng.choice(changes))  # type: ignore[arg-type]  # each is a number of its field's kind
