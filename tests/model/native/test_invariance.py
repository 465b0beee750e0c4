"""The promise of the backend: a token's logits are the same bits whatever happens around it. One request is read alone,
by one thread; then again among 1 to 31 others that come and go at random, in other blocks and other chunks, set back
and computed again, by two threads."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from model.batch import Batch, Chunk, OpenedSlot, SamplingParams
from model.config import ModelConfig
from model.formats.adapter import Adapter
from model.native.runner import NativeOptions, NativeRunner
from tests.model.adapters import random_adapter
from tests.model.native.library_here import needs_library
from tests.model.random_checkpoint import LLAMA, MINIMIND_MOE, QWEN2, QWEN3, QWEN3_MOE, random_checkpoint
from tests.model.torch_backend.driver import Driver

pytestmark = needs_library

GREEDY = SamplingParams(temperature=0.0)
NUM_PROMPT, NUM_TOKENS = 41, 53  # of the request
ITS_SLOT = 1000
WEIGHTS = {
    "float32": {"dtype": "float32", "kv_dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "auto", "weights": "int8"},
    "int4": {"dtype": "auto", "weights": "int4", "kv_dtype": "int8"},
}


def make_driver(config: ModelConfig, weights: str, num_threads: int, adapters: Sequence[Adapter] = ()) -> Driver:
    options = NativeOptions(
        num_threads=num_threads,
        kv_cache_memory=2**23,
        max_num_batched_tokens=1500,
        debug_poison=True,
        **WEIGHTS[weights],  # type: ignore[arg-type]
    )
    return Driver(NativeRunner(random_checkpoint(config, 3), options, adapters))


def read(driver: Driver, chunks: list[Chunk]) -> Tensor:
    """Logits [S, V] behind the chunks that sample."""
    grown = tuple(grown for chunk in chunks if (grown := driver._grow(chunk)))
    driver.runner.run(Batch(grown=grown))
    return torch.from_numpy(driver.runner.logits(chunks))  # type: ignore[attr-defined]


@dataclass
class Reading:
    """A slot that reads given tokens, the first of which are its prompt."""

    slot: int
    tokens: list[int]
    num_prompt: int
    adapter: int = 0
    position: int = 0
    logits: dict[int, Tensor] = field(default_factory=dict)  # behind the tokens at these positions

    @property
    def opened(self) -> OpenedSlot:
        return OpenedSlot(self.slot, 1, self.num_prompt, GREEDY, adapter=self.adapter)

    def next_chunk(self, num_tokens: int) -> Chunk:
        tokens = tuple(self.tokens[self.position : self.position + num_tokens])
        self.position += len(tokens)
        return Chunk(self.slot, tokens)


def step(driver: Driver, readings: list[Reading], chunks: list[Chunk]) -> None:
    for reading, row in zip(readings, read(driver, chunks), strict=True):
        reading.logits[reading.position - 1] = row


def its_tokens() -> list[int]:
    return random.Random(1).choices(range(331), k=NUM_TOKENS)


def read_alone(driver: Driver, adapter: int = 0) -> dict[int, Tensor]:
    """The prompt at once, then token by token."""
    request = Reading(ITS_SLOT, its_tokens(), NUM_PROMPT, adapter)
    driver.step([], [request.opened])
    while request.position < NUM_TOKENS:
        step(driver, [request], [request.next_chunk(1 if request.position else NUM_PROMPT)])
    return request.logits


class Company:
    """Requests of random lengths in random chunks, of each adapter by turns and of none; whoever is done leaves, and
    another comes into his blocks."""

    def __init__(self, driver: Driver, rng: random.Random, size: int, num_adapters: int) -> None:
        self._num_adapters = num_adapters
        self._driver, self._rng, self._numbers = driver, rng, iter(range(10**6))
        self.readings: list[Reading] = []
        while len(self.readings) < size:
            self.readings.append(self._newcomer())

    def _newcomer(self) -> Reading:
        length = self._rng.randint(2, 70)
        tokens = self._rng.choices(range(331), k=length)
        number = next(self._numbers)
        reading = Reading(number, tokens, self._rng.randint(1, length), number % (self._num_adapters + 1))
        self._driver.step([], [reading.opened])
        return reading

    def change(self) -> None:
        for i, reading in enumerate(self.readings):
            if reading.position == len(reading.tokens):
                self._driver.step([], freed=[reading.slot])
                self.readings[i] = self._newcomer()


def sizes(rng: random.Random) -> Iterator[int]:
    """Of the request's chunks: of its prompt and of what is computed again at once, then of single tokens."""
    while True:
        yield rng.choice([1, 2, 3, 7, 17, 40])


def read_in_company(
    driver: Driver, rng: random.Random, num_others: int, adapter: int = 0, num_adapters: int = 0
) -> Iterator[dict[int, Tensor]]:
    """Twice: set back in the middle of its answer, and read again from the start."""
    company = Company(driver, rng, num_others, num_adapters)
    for end in (NUM_PROMPT + rng.randint(1, NUM_TOKENS - NUM_PROMPT - 1), NUM_TOKENS):
        request, chunk_sizes = Reading(ITS_SLOT, its_tokens()[:end], NUM_PROMPT, adapter), sizes(rng)
        driver.step([], [request.opened])
        while request.position < end:
            company.change()
            readings = [*company.readings, request]
            rng.shuffle(readings)
            step(driver, readings, [reading.next_chunk(next(chunk_sizes)) for reading in readings])
        driver.step([], freed=[ITS_SLOT])
        yield request.logits


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(
    "config", [LLAMA, QWEN2, QWEN3, QWEN3_MOE, MINIMIND_MOE], ids=lambda config: config.architecture
)
def test_a_tokens_logits_are_the_same_bits_whatever_happens_around_it(config: ModelConfig, weights: str) -> None:
    alone = read_alone(make_driver(config, weights, 1))
    for num_others in (1, 4, 15, 31):
        for num_threads in (1, 2):
            driver, rng = make_driver(config, weights, num_threads), random.Random(num_others)
            for logits in read_in_company(driver, rng, num_others):
                check_same_bits(logits, alone, (num_others, num_threads))


def check_same_bits(logits: dict[int, Tensor], alone: dict[int, Tensor], case: object) -> None:
    shared = logits.keys() & alone.keys()
    assert shared
    for position in shared:
        assert torch.equal(logits[position], alone[position]), (case, position)


@pytest.mark.parametrize("adapter", [0, 2])
@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("config", [LLAMA, QWEN2, QWEN3, QWEN3_MOE], ids=lambda config: config.architecture)
def test_that_holds_beside_other_adapters(config: ModelConfig, weights: str, adapter: int) -> None:
    """Alone it is computed where there is no other adapter at all."""
    adapters = [random_adapter(config, seed, rank) for seed, rank in ((1, 4), (2, 13), (3, 8))]
    alone = read_alone(make_driver(config, weights, 1, adapters[1:2]), min(adapter, 1))
    for num_others in (1, 15):
        driver, rng = make_driver(config, weights, 2, adapters), random.Random(num_others)
        for logits in read_in_company(driver, rng, num_others, adapter, len(adapters)):
            check_same_bits(logits, alone, num_others)
