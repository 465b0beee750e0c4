"""The rule of `sampling.py` as a whole, against the same rule by the book."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batch import NO_CHOICE, NOT_FINITE, ChunkResult, SamplingParams
from model.torch_backend import sampling
from model.torch_backend.penalties import TokenCounts
from model.torch_backend.sampling import sample
from tests.model.sampling_by_the_book import BookRow, kept_weights, token_of
from tests.model.torch_backend.rows import GREEDY, SamplingRow, draw, random_logits, row_of, tokens_of

TOKENS = st.lists(st.integers(0, 59), max_size=12)
BIASES = st.dictionaries(st.integers(0, 59), st.sampled_from([-100.0, -1.5, 0.25, 3.0, -math.inf]), max_size=4)


def rarely(usual: float, *others: float) -> st.SearchStrategy[float]:
    return st.sampled_from([usual] * len(others) + list(others))


PARAMS = st.builds(
    SamplingParams,
    temperature=rarely(1.0, 0.0, 0.1, 0.7, 2.0),
    top_n_sigma=rarely(0.0, 0.3, 1.0, 2.0),
    top_k=st.sampled_from([0, 0, 0, 1, 2, 5, 50, 10_000]),
    typical_p=rarely(1.0, 0.0, 0.2, 0.5, 0.95),
    top_p=rarely(1.0, 0.0, 0.3, 0.9, 0.999),
    min_p=rarely(0.0, 0.05, 0.5, 1.0),
    xtc_probability=rarely(0.0, 0.5, 1.0),
    xtc_threshold=st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    logit_bias=BIASES.map(lambda biases: tuple(biases.items())),
    repetition_penalty=rarely(1.0, 1.3, 0.8),
    presence_penalty=rarely(0.0, 0.5, -1.0),
    frequency_penalty=rarely(0.0, 0.25),
    seed=st.integers(0, 2**64 - 1),
    min_tokens=st.sampled_from([0, 5]),
    suppressed_token_ids=TOKENS.map(tuple),
)


@st.composite
def book_rows(draw: st.DrawFn, vocab_size: int) -> BookRow:
    logits = random_logits(1, vocab_size, draw(st.integers(0, 2**31)))[0].tolist()
    allowed = draw(st.none() | st.frozensets(st.integers(0, vocab_size - 1), min_size=20))
    return BookRow(
        logits=logits,
        params=draw(PARAMS),
        position=draw(st.integers(0, 2**34)),
        prompt=tuple(draw(TOKENS)),
        output=tuple(draw(TOKENS)),
        allowed=allowed,
        biases=tuple(draw(BIASES).items()),
    )


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.sampled_from([60, 300, 3000]).flatmap(lambda size: st.lists(book_rows(size), min_size=1, max_size=6)))
def test_every_row_of_a_batch_is_chosen_by_the_book(batch: list[BookRow]) -> None:
    logits = torch.tensor([row.logits for row in batch])
    results = sample(logits, [row_of(row) for row in batch])
    assert tokens_of(results) == [token_of(row) for row in batch]
    assert [result.error for result in results] == [None if token_of(row) is not None else NO_CHOICE for row in batch]


@pytest.mark.parametrize(("number", "token"), [(0.0, 1), (1 - 2.0**-53, 3)])
def test_the_least_and_the_greatest_number_give_the_first_and_the_last_token_kept(
    number: float, token: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its product with the sum of the weights may be rounded up to that sum."""
    monkeypatch.setattr(sampling, "uniforms", lambda seeds, _positions: np.full(len(seeds), number))
    for largest in (2.0, 2.5, 3.0, 3.3):
        logits = torch.tensor([-1e9, 2.0, 1.7, largest, -1e9])
        assert set(draw(logits, SamplingParams(), range(2))) == {token}


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.8, seed=11),
        SamplingParams(temperature=1.5, top_k=5, seed=12),
        SamplingParams(temperature=1.0, top_p=0.8, seed=13),
        SamplingParams(temperature=1.0, min_p=0.1, seed=14),
        SamplingParams(temperature=1.0, typical_p=0.6, seed=15),
        SamplingParams(temperature=1.0, top_n_sigma=1.0, seed=16),
        SamplingParams(temperature=1.0, xtc_probability=1.0, xtc_threshold=0.1, seed=17),
    ],
)
def test_frequencies_are_the_probabilities(params: SamplingParams) -> None:
    logits = random_logits(1, 12, spread=1.0)[0]
    kept = kept_weights(logits.tolist(), params)
    num_draws = 20_000
    counts = np.bincount(draw(logits, params, range(num_draws)), minlength=12)
    expected = np.array([kept.get(token, 0.0) for token in range(12)]) / sum(kept.values()) * num_draws
    assert counts[expected == 0].sum() == 0
    chi_square = ((counts - expected)[expected > 0] ** 2 / expected[expected > 0]).sum()
    assert chi_square < 31  # 11 degrees of freedom: 1 in 1000 lies above


def test_a_row_gives_the_same_token_alone_and_in_any_company() -> None:
    generator = np.random.default_rng(5)
    logits = random_logits(21, 40_000)  # large enough that a sum over one row alone is split among threads
    rows = [
        SamplingRow(
            SamplingParams(
                temperature=float(generator.choice([0.0, 0.7, 1.2])),
                top_n_sigma=float(generator.choice([0.0, 1.5])),
                typical_p=float(generator.choice([1.0, 0.9])),
                top_p=float(generator.choice([1.0, 0.95])),
                top_k=int(generator.choice([0, 40])),
                xtc_probability=float(generator.choice([0.0, 0.8])),
                xtc_threshold=0.02,
                logit_bias=((int(generator.integers(40_000)), 9.0),),
                seed=int(generator.integers(2**63)),
            ),
            position,
            0,
            allowed=generator.bytes(5000) if position % 4 == 0 else None,
        )
        for position in range(21)
    ]
    together = sample(logits, rows)
    assert [sample(logits[i : i + 1], [row])[0] for i, row in enumerate(rows)] == together
    shuffled = generator.permutation(21)
    assert sample(logits[shuffled], [rows[i] for i in shuffled]) == [together[i] for i in shuffled]


def test_greedy_takes_the_lowest_of_equals_whatever_the_limits() -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0, 0.0]] * 2)
    edited = replace(GREEDY, top_k=1, min_tokens=1, suppressed_token_ids=(0,))
    assert tokens_of(sample(logits, [SamplingRow(GREEDY, 3, 0), SamplingRow(edited, 3, 0)])) == [1, 1]


def test_edits_come_before_temperature_and_before_the_greedy_choice() -> None:
    counts = TokenCounts(1)
    counts.extend([1])
    logits = torch.tensor([[4.0, 5.0, 0.0]])
    for temperature in (0.0, 1e-3):
        penalised = SamplingParams(temperature=temperature, repetition_penalty=2.0)
        biased = SamplingParams(temperature=temperature, logit_bias=((2, 6.0),))
        plain = SamplingParams(temperature=temperature)
        assert tokens_of(sample(logits, [SamplingRow(penalised, 1, 0, counts)])) == [0]
        assert tokens_of(sample(logits, [SamplingRow(biased, 1, 0)])) == [2]
        assert tokens_of(sample(logits, [SamplingRow(plain, 1, 0, biases=((0, 1.5),))])) == [0]
        assert tokens_of(sample(logits, [SamplingRow(plain, 1, 0, allowed=b"\x04")])) == [2]


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-5])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, top_p=0.5)
    assert set(draw(torch.tensor([1.0, 2.0, 1.999]), params, range(50))) == {1}


def test_logprobs_are_those_of_the_raw_distribution() -> None:
    logits = random_logits(3, 50)
    expected = logits.double().log_softmax(-1)
    counts = TokenCounts(0)
    counts.extend([1])
    params = SamplingParams(temperature=0.5, top_k=1, repetition_penalty=5.0, logit_bias=((9, 50.0),), num_logprobs=3)
    rows = [
        SamplingRow(params, 1, 1, counts, allowed=b"\xff\xff"),
        SamplingRow(GREEDY, 1, 1),
        SamplingRow(replace(GREEDY, num_logprobs=0), 1, 1),
    ]
    first, without, own = sample(logits, rows)
    assert first.token_id == 9
    assert first.logprob == pytest.approx(expected[0, 9].item(), abs=1e-5)
    assert [token for token, _ in first.top_logprobs] == expected[0].topk(3).indices.tolist()
    assert [value for _, value in first.top_logprobs] == pytest.approx(expected[0].topk(3).values.tolist(), abs=1e-5)
    assert without == ChunkResult(token_id=int(logits[1].argmax()))
    assert own.logprob == pytest.approx(expected[2].max().item(), abs=1e-5)
    assert own.top_logprobs == ()


FILTERED = SamplingParams(
    top_n_sigma=1.0, typical_p=0.9, top_k=9, xtc_probability=1.0, logit_bias=((3, 1.0),), num_logprobs=2
)


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(top_p=0.9, num_logprobs=2), SamplingParams(), FILTERED])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_fail_their_row_only(params: SamplingParams, bad: float) -> None:
    logits = random_logits(3, 300)
    rows = [SamplingRow(params, 1, 0)] * 3
    healthy = sample(logits, rows)
    logits[1, 200] = bad
    assert sample(logits, rows) == [healthy[0], ChunkResult(error=NOT_FINITE), healthy[2]]


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(), replace(FILTERED, num_logprobs=None)])
def test_a_row_of_which_nothing_may_be_chosen_is_an_error(params: SamplingParams) -> None:
    never = ((0, -math.inf), (1, -math.inf))
    rows = [
        SamplingRow(replace(params, logit_bias=(), min_tokens=1, suppressed_token_ids=(0, 1)), 1, 0),
        SamplingRow(replace(params, logit_bias=()), 1, 0, allowed=b"\x04"),
        SamplingRow(replace(params, logit_bias=never), 1, 0),
        SamplingRow(replace(params, logit_bias=()), 1, 0, biases=never),
    ]
    assert sample(torch.zeros(4, 2), rows) == [ChunkResult(error=NO_CHOICE)] * 4


def test_a_row_whose_every_weight_is_below_min_p_is_an_error() -> None:
    rows = [SamplingRow(SamplingParams(min_p=min_p), 1, 0) for min_p in (0.5, 2.0)]
    first, second = sample(torch.tensor([[0.0, 9.0]] * 2), rows)
    assert (first, second) == (ChunkResult(token_id=1), ChunkResult(error=NO_CHOICE))


def test_the_logits_are_left_as_they_were() -> None:
    logits = random_logits(2, 20)
    before = logits.clone()
    sample(logits, [SamplingRow(FILTERED, 1, 0, allowed=b"\xff")] * 2)
    assert torch.equal(logits, before)
