"""What a step is asked for beside tokens, or for one choice alone: log-probabilities of targets, pooled prompts, masks
and biases, through the runner. What each does to a row of logits is tested in test_filters.py."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from model.batch import NO_CHOICE, NOT_FINITE, Chunk, ChunkResult, OpenedSlot, SamplingParams, TargetLogprob
from model.config import ModelConfig
from model.native.library import NativeError
from model.native.runner import NativeOptions, NativeRunner
from tests.model.native.library_here import needs_library
from tests.model.random_checkpoint import LLAMA, QWEN2, QWEN3, QWEN3_MOE, random_checkpoint
from tests.model.reading import read_one_by_one
from tests.model.torch_backend.driver import Driver
from tests.model.torch_backend.test_runner import checkpoint_that_breaks_on

pytestmark = needs_library

VOCAB = 331
GREEDY = SamplingParams(temperature=0.0)
WEIGHTS = {
    "float32": {"dtype": "float32", "kv_dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "auto", "weights": "int8"},
    "int4": {"dtype": "auto", "weights": "int4", "kv_dtype": "int8"},
}
CONFIGS = pytest.mark.parametrize("config", [LLAMA, QWEN2, QWEN3, QWEN3_MOE], ids=lambda config: config.architecture)


def make_driver(config: ModelConfig = LLAMA, weights: str = "float32", num_threads: int = 2) -> Driver:
    options = NativeOptions(num_threads=num_threads, kv_cache_memory=2**22, debug_poison=True, **WEIGHTS[weights])  # type: ignore[arg-type]
    return Driver(NativeRunner(random_checkpoint(config, 3), options))


def prompt_of(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, VOCAB, length).tolist())


def mask(allowed: Sequence[int]) -> bytes:
    return np.packbits(np.isin(np.arange(VOCAB), allowed), bitorder="little").tobytes()


def opened(num_prompt: int, params: SamplingParams = GREEDY, slot: int = 0, pools: bool = False) -> OpenedSlot:
    return OpenedSlot(slot, 1, num_prompt, params, pools)


# ---- Targets ----


@CONFIGS
@pytest.mark.parametrize("num_top", [0, 3])
def test_targets_have_the_log_probabilities_of_the_logits_there(config: ModelConfig, num_top: int) -> None:
    """More of them than are computed at once; of a prompt that is scored and no more."""
    prompt = prompt_of(75)
    exact = read_one_by_one(make_driver(config).runner, prompt).double().log_softmax(-1)  # type: ignore[arg-type]
    params = replace(GREEDY, num_prompt_logprobs=num_top)
    chunk = Chunk(0, prompt, samples=False, targets=prompt[1:])
    (result,) = make_driver(config).step([chunk], [opened(75, params)])
    assert (result.token_id, result.logprob, result.pooled, result.error) == (None, None, None, None)
    assert len(result.targets) == 74
    for row, target, found in zip(exact, prompt[1:], result.targets, strict=False):
        assert found.logprob == pytest.approx(row[target].item(), abs=3e-4)
        best = row.topk(num_top)
        assert [token for token, _ in found.top_logprobs] == best.indices.tolist()
        assert [value for _, value in found.top_logprobs] == pytest.approx(best.values.tolist(), abs=3e-4)


def test_a_target_is_reported_as_the_token_that_is_chosen_there() -> None:
    """Behind a decode chunk, too, and beside the token that is sampled."""
    params = SamplingParams(seed=5, num_logprobs=4, num_prompt_logprobs=4)
    tokens: list[int] = []
    driver, chunk, opening = make_driver(), Chunk(0, prompt_of(40)), [opened(40, params)]
    while len(tokens) < 5:
        (result,) = driver.step([chunk], opening)
        assert result.token_id is not None
        tokens.append(result.token_id)
        chunk, opening = Chunk(0), []
    driver.step([], freed=[0])
    chunk, opening = Chunk(0, prompt_of(40), targets=(7,) * 39 + (tokens[0],)), [opened(40, params)]
    for token, following in zip(tokens, tokens[1:], strict=False):
        (result,) = driver.step([chunk], opening)
        assert result.token_id == token
        assert result.targets[-1] == TargetLogprob(result.logprob or 0, result.top_logprobs)
        chunk, opening = Chunk(0, targets=(following,)), []


def test_a_chunk_may_have_fewer_targets_than_tokens_and_others_none() -> None:
    driver, prompt = make_driver(), prompt_of(20)
    chunks = [Chunk(0, prompt, targets=(1, 2)), Chunk(1, prompt), Chunk(2, prompt, samples=False, targets=(1,))]
    first, second, third = driver.step(chunks, [opened(20, slot=slot) for slot in range(3)])
    assert [len(one.targets) for one in (first, second, third)] == [2, 0, 1]
    assert first.targets[:1] == third.targets
    assert first.token_id == second.token_id is not None
    assert second == ChunkResult(second.token_id)


def test_no_more_top_tokens_are_reported_than_there_are() -> None:
    params = replace(GREEDY, num_prompt_logprobs=VOCAB + 5)
    (result,) = make_driver().step([Chunk(0, (1, 2), targets=(3, 4))], [opened(2, params)])
    for target, one in zip((3, 4), result.targets, strict=True):
        assert sorted(token for token, _ in one.top_logprobs) == list(range(VOCAB))
        assert dict(one.top_logprobs)[target] == one.logprob
        assert sum(np.exp(value) for _, value in one.top_logprobs) == pytest.approx(1, abs=1e-5)


# ---- Pooled prompts ----


@CONFIGS
def test_a_pooled_prompt_is_the_mean_of_what_the_head_reads(config: ModelConfig) -> None:
    """The head is a matrix: it makes the mean logits of the mean."""
    prompt, driver = prompt_of(75), make_driver(config)
    expected = read_one_by_one(make_driver(config).runner, prompt).mean(0)  # type: ignore[arg-type]
    (result,) = driver.step([Chunk(0, prompt, samples=False)], [opened(75, pools=True)])
    assert result.pooled is not None
    assert (len(result.pooled), driver.runner.info.hidden_size) == (config.hidden_size, config.hidden_size)
    assert (result.token_id, result.targets) == (None, ())
    weights = random_checkpoint(config, 3).weights
    head = weights["model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"]
    matrix = torch.from_numpy(head.data.copy()).view(torch.float32).reshape(VOCAB, -1)
    torch.testing.assert_close(matrix @ torch.tensor(result.pooled), expected, rtol=0, atol=2e-4)


def test_a_pooled_vector_comes_once_behind_the_last_token_of_the_prompt() -> None:
    driver, prompt = make_driver(), prompt_of(40)
    (whole,) = driver.step([Chunk(0, prompt)], [opened(40, pools=True)])
    assert whole.pooled is not None
    assert driver.step([Chunk(0)])[0].pooled is None
    driver.step([], freed=[0])
    assert driver.step([Chunk(0, prompt[:39], samples=False)], [opened(40, pools=True)])[0].pooled is None
    assert driver.step([Chunk(0, prompt[39:])])[0].pooled == whole.pooled
    driver.step([], freed=[0])
    assert driver.step([Chunk(0, (*prompt, 7, 8))], [opened(40, pools=True)])[0].pooled == whole.pooled
    driver.step([], freed=[0])
    assert driver.step([Chunk(0, prompt)], [opened(40)])[0].pooled is None, "the next owner of the slot did not ask"


# ---- In any company ----


def asked_of(position: int) -> tuple[bytes, tuple[tuple[int, float], ...]]:
    """The mask and the bias of a choice."""
    rng = random.Random(position)
    return mask(rng.sample(range(VOCAB), 50)), ((rng.randrange(VOCAB), 2.0),)


@dataclass
class Reading:
    """A request that asks for everything: its prompt in chunks, then as many tokens."""

    slot: int
    prompt: tuple[int, ...]
    num_read: int = 0
    targets: list[TargetLogprob] = field(default_factory=list)
    pooled: list[tuple[float, ...]] = field(default_factory=list)
    tokens: list[ChunkResult] = field(default_factory=list)

    @property
    def opened(self) -> OpenedSlot:
        params = SamplingParams(
            0.9, typical_p=0.95, xtc_probability=0.5, seed=self.slot, num_logprobs=2, num_prompt_logprobs=2
        )
        return opened(len(self.prompt), params, self.slot, pools=True)

    def next_chunk(self, num_tokens: int) -> Chunk:
        tokens = self.prompt[self.num_read : self.num_read + num_tokens]
        self.num_read += len(tokens)
        targets = (*self.prompt, 9)[self.num_read - len(tokens) + 1 : self.num_read + 1]
        if self.num_read < len(self.prompt):
            return Chunk(self.slot, tokens, samples=False, targets=targets)
        allowed, biases = asked_of(len(self.tokens))
        return Chunk(self.slot, tokens, allowed=allowed, biases=biases, targets=targets)

    def take(self, result: ChunkResult) -> None:
        assert result.error is None
        self.targets += result.targets
        self.pooled += [result.pooled] if result.pooled else []
        if result.token_id is not None:
            self.tokens.append(replace(result, targets=(), pooled=None))


def read(driver: Driver, reading: Reading, others: list[Reading], rng: random.Random, sizes: Sequence[int]) -> Reading:
    """Until it has chosen eight tokens; the others begin at random, and end at random."""
    company: list[Reading] = []
    driver.step([], [reading.opened])
    while len(reading.tokens) < 8:
        if others and rng.random() < 0.7:
            company.append(others.pop())
            driver.step([], [company[-1].opened])
        if company and rng.random() < 0.1:
            driver.step([], freed=[company.pop(rng.randrange(len(company))).slot])
        running = rng.sample([reading, *company], 1 + len(company))
        chunks = [one.next_chunk(rng.choice(sizes)) for one in running]
        for one, result in zip(running, driver.step(chunks), strict=True):
            one.take(result)
    return reading


@pytest.mark.parametrize("weights", WEIGHTS)
@CONFIGS
def test_what_is_asked_gives_the_same_bits_in_any_company_and_chunks(config: ModelConfig, weights: str) -> None:
    alone = read(make_driver(config, weights, 1), Reading(1000, prompt_of(70)), [], random.Random(0), [100])
    assert (len(alone.targets), len(alone.pooled), len(alone.tokens)) == (70, 1, 8)
    for num_others, num_threads in ((0, 1), (3, 2), (9, 2)):
        others = [Reading(slot, prompt_of(5 + 13 * slot, slot)) for slot in range(num_others)]
        driver, rng = make_driver(config, weights, num_threads), random.Random(num_others)
        again = read(driver, Reading(1000, prompt_of(70)), others, rng, [1, 3, 17, 33])
        assert again.targets == alone.targets
        assert again.pooled == alone.pooled
        assert again.tokens == alone.tokens
        for i, result in enumerate(again.tokens):
            assert result.token_id is not None
            assert asked_of(i)[0][result.token_id // 8] >> result.token_id % 8 & 1


def test_a_slot_that_is_set_back_in_its_prompt_pools_as_if_nothing_had_been() -> None:
    driver, prompt = make_driver(), prompt_of(40)
    (whole,) = driver.step([Chunk(0, prompt, samples=False)], [opened(40, pools=True)], freed=[])
    driver.step([Chunk(1, prompt[:25], samples=False)], [opened(40, slot=1, pools=True)], freed=[0])
    (again,) = driver.step([Chunk(1, prompt, samples=False)], [opened(40, slot=1, pools=True)], freed=[1])
    assert again == whole


# ---- One choice ----


def test_a_mask_and_biases_are_for_one_choice_and_one_slot() -> None:
    driver, prompt = make_driver(), prompt_of(20)
    expected = driver.generate(list(prompt), GREEDY, 3)
    opening = [opened(20, slot=slot) for slot in range(3)]
    chunks = [Chunk(0, prompt, allowed=mask([3])), Chunk(1, prompt), Chunk(2, prompt, biases=((5, 1000.0),))]
    assert [one.token_id for one in driver.step(chunks, opening)] == [3, expected[0], 5]
    driver.step([], freed=[0, 2])
    assert driver.step([Chunk(1)])[0].token_id == expected[1]
    assert driver.step([Chunk(1, allowed=mask([expected[2], 3]))])[0].token_id in (expected[2], 3)
    assert driver.step([Chunk(1, allowed=b"")])[0] == ChunkResult(error=NO_CHOICE)


def test_the_biases_of_a_slot_last_and_are_its_own() -> None:
    driver, prompt = make_driver(), prompt_of(20)
    plain = driver.generate(list(prompt), GREEDY, 3)
    biased = replace(GREEDY, logit_bias=((5, 1000.0), (6, 1100.0)))
    results = driver.step([Chunk(0, prompt), Chunk(1, prompt)], [opened(20, biased), opened(20, slot=1)])
    assert [one.token_id for one in results] == [6, plain[0]]
    chunks = [Chunk(0, biases=((6, -1000.0),)), Chunk(1)]
    assert [one.token_id for one in driver.step(chunks)] == [5, plain[1]]
    assert [one.token_id for one in driver.step([Chunk(0), Chunk(1)])] == [6, plain[2]]


# ---- What fails ----


def test_numbers_that_overflow_are_an_error_of_the_chunk_that_wants_them() -> None:
    """A score or a vector of them is no answer."""
    options = NativeOptions(dtype="float32", kv_dtype="float32", kv_cache_memory=2**20, debug_poison=True)
    driver = Driver(NativeRunner(checkpoint_that_breaks_on(17), options))
    good = tuple(token for token in prompt_of(20) if token != 17)
    bad = (*good[:-1], 17)
    chunks = [
        Chunk(0, bad, samples=False, targets=good),
        Chunk(1, good, targets=good),
        Chunk(2, bad, samples=False),
        Chunk(3, good, samples=False),
        Chunk(4, bad, targets=good[:3]),
    ]
    opening = [opened(len(good), slot=slot, pools=slot in (2, 3)) for slot in range(5)]
    first, second, third, fourth, fifth = driver.step(chunks, opening)
    assert first == third == fifth == ChunkResult(error=NOT_FINITE)
    assert second.token_id is not None
    assert (len(second.targets), second.error, fourth.error) == (len(good), None, None)
    assert fourth.pooled is not None


@pytest.mark.parametrize(
    ("chunk", "problem"),
    [
        (Chunk(1, (1, 2), targets=(331,)), "no such token id"),
        (Chunk(1, (1, 2), targets=(-1,)), "no such token id"),
        (Chunk(1, (1, 2), targets=(1, 2, 3)), "more targets than tokens"),
        (Chunk(1, (1, 2), biases=((331, 1.0),)), "no such token id"),
        (Chunk(1, (1, 2), biases=((-1, 1.0),)), "no such token id"),
        (Chunk(1, (1, 2), biases=((1, float("nan")),)), "a bias is a number"),
        (Chunk(1, (1, 2), biases=((1, float("inf")),)), "a bias is a number"),
    ],
)
def test_a_chunk_that_cannot_be_is_an_exception_and_others_go_on(chunk: Chunk, problem: str) -> None:
    driver, prompt = make_driver(), prompt_of(40)
    expected = driver.generate(list(prompt), GREEDY, 3)
    tokens = [driver.step([Chunk(0, prompt)], [opened(40)])[0].token_id]
    with pytest.raises(NativeError, match=problem):
        driver.step([Chunk(0), chunk], [opened(2, slot=1)])
    driver.lengths[0] -= 1
    tokens += [driver.step([Chunk(0)], freed=[1])[0].token_id, driver.step([Chunk(0)])[0].token_id]
    assert tokens == expected


@pytest.mark.parametrize(
    "params",
    [
        replace(GREEDY, logit_bias=((331, 1.0),)),
        replace(GREEDY, logit_bias=((1, float("nan")),)),
        replace(GREEDY, suppressed_token_ids=(331,), min_tokens=1),
        replace(GREEDY, suppressed_token_ids=(-1,)),
    ],
)
def test_a_slot_that_cannot_be_is_not_opened(params: SamplingParams) -> None:
    driver = make_driver()
    with pytest.raises(NativeError, match=r"no such token id|a bias is"):
        driver.step([Chunk(1, (1, 2))], [opened(2, params, slot=1)])
    assert driver.step([Chunk(1, (1, 2))], [opened(2, slot=1)], freed=[1])[0].token_id is not None
