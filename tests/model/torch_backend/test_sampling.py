"""The rule of `sampling.py`, against a loop that follows its text over one row of Python floats."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.batch import ChunkResult, SamplingParams
from model.torch_backend import sampling
from model.torch_backend.penalties import TokenCounts
from model.torch_backend.philox import uniforms
from model.torch_backend.sampling import NO_CHOICE, NOT_FINITE, SamplingRow, sample

GREEDY = SamplingParams(temperature=0.0)


def random_logits(num_rows: int, vocab_size: int, seed: int = 0, spread: float = 3.0) -> Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * spread


def tokens_of(results: list[ChunkResult]) -> list[int | None]:
    return [result.token_id for result in results]


def draw(logits: Tensor, params: SamplingParams, positions: range) -> np.ndarray:
    """Of one row of logits [V], one token at each position."""
    rows = [SamplingRow(params, position, 0) for position in positions]
    return np.array(tokens_of(sample(logits.expand(len(rows), -1), rows)))


def kept_by_the_book(logits: list[float], params: SamplingParams) -> dict[int, float]:
    """Token ids that step 5 leaves, in order, with their weights."""
    weights = np.exp(np.float32((np.array(logits) - max(logits)) / params.temperature)).tolist()
    if 0 < params.top_k < len(weights):
        kth = sorted(weights, reverse=True)[params.top_k - 1]
        weights = [w if w >= kth else 0.0 for w in weights]
    if params.top_p < 1:
        taken, total = 0.0, math.fsum(weights)
        for last in sorted(weights, reverse=True):
            taken += last
            if taken >= params.top_p * total:
                break
        weights = [w if w >= last else 0.0 for w in weights]
    return {i: w for i, w in enumerate(weights) if w > 0 and w >= params.min_p}


def token_by_the_book(logits: list[float], params: SamplingParams, position: int) -> int:
    kept = kept_by_the_book(logits, params)
    number = uniforms(np.array([params.seed], dtype=np.uint64), np.array([position], dtype=np.uint64))[0]
    running = 0.0
    for token, weight in kept.items():
        running += weight
        if running > number * math.fsum(kept.values()):
            return token
    raise AssertionError("the running sum reaches the whole")


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.1, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 5, 50, 10_000]),
    top_p=st.sampled_from([1.0, 1.0, 0.0, 0.3, 0.9, 0.999]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 2**64 - 1),
)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.lists(PARAMS, min_size=1, max_size=6), st.integers(0, 2**32), st.sampled_from([3, 60, 300, 3000]))
def test_every_row_of_a_batch_is_chosen_by_the_book(batch: list[SamplingParams], seed: int, vocab_size: int) -> None:
    logits = random_logits(len(batch), vocab_size, seed % 2**31)
    rows = [SamplingRow(params, seed % 10_000 + i, 0) for i, params in enumerate(batch)]
    expected = [token_by_the_book(logits[i].tolist(), row.params, row.position) for i, row in enumerate(rows)]
    assert tokens_of(sample(logits, rows)) == expected


@pytest.mark.parametrize(
    ("params", "num_kept"),
    [
        (SamplingParams(top_k=2), 3),  # 0, 1 and 2 are equal
        (SamplingParams(top_p=0.2), 3),
        (SamplingParams(top_k=4, top_p=0.999), 4),
        (SamplingParams(min_p=0.3), 4),  # the fourth has weight 1/e = 0.37
        (SamplingParams(top_p=0.0), 3),
    ],
)
def test_equals_of_the_last_one_kept_stay(params: SamplingParams, num_kept: int) -> None:
    logits = torch.tensor([3.0, 3.0, 3.0, 2.0, -1.0])
    assert set(draw(logits, params, range(300))) == set(range(num_kept))


def test_top_p_is_a_share_of_what_top_k_left() -> None:
    logits = torch.tensor([2.0, 1.0, *[0.0] * 6])  # weights e^2, e, 1 …: the first is 0.73 of two, 0.46 of all
    assert set(draw(logits, SamplingParams(top_k=2, top_p=0.7), range(100))) == {0}
    assert set(draw(logits, SamplingParams(top_p=0.5), range(100))) == {0, 1}


@pytest.mark.parametrize("params", [SamplingParams(top_p=0.9), SamplingParams(top_k=4000), SamplingParams(top_k=2048)])
def test_flat_rows_that_no_window_can_hold_are_cut_exactly(params: SamplingParams) -> None:
    logits = random_logits(1, 6000, spread=0.01)[0]
    logits[:2500] = 0.5  # more equals than the larger window: its last is not the end of them
    kept = kept_by_the_book(logits.tolist(), params)
    drawn = draw(logits, params, range(2000))
    assert len(kept) > max(sampling.WINDOWS)
    assert set(drawn) <= set(kept)
    assert token_by_the_book(logits.tolist(), params, 7) == drawn[7]


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
    ],
)
def test_frequencies_are_the_probabilities(params: SamplingParams) -> None:
    logits = random_logits(1, 12, spread=1.0)[0]
    kept = kept_by_the_book(logits.tolist(), params)
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
                top_p=float(generator.choice([1.0, 0.95])),
                top_k=int(generator.choice([0, 40])),
                seed=int(generator.integers(2**63)),
            ),
            position,
            0,
        )
        for position in range(21)
    ]
    together = sample(logits, rows)
    assert [sample(logits[i : i + 1], [row])[0] for i, row in enumerate(rows)] == together
    shuffled = generator.permutation(21)
    assert sample(logits[shuffled], [rows[i] for i in shuffled]) == [together[i] for i in shuffled]


def test_greedy_takes_the_lowest_of_equals_whatever_the_limits() -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0, 0.0]] * 2)
    rows = [
        SamplingRow(GREEDY, 3, 0),
        SamplingRow(replace(GREEDY, top_k=1, min_tokens=1, suppressed_token_ids=(0,)), 3, 0),
    ]
    assert tokens_of(sample(logits, rows)) == [1, 1]


def test_suppressed_tokens_wait_until_the_output_is_long_enough() -> None:
    logits = torch.tensor([[0.0, 9.0, 1.0]] * 2)
    params = replace(GREEDY, min_tokens=2, suppressed_token_ids=(1,))
    assert tokens_of(sample(logits, [SamplingRow(params, 5, 1), SamplingRow(params, 6, 2)])) == [2, 1]
    warm = replace(params, temperature=1.0)
    assert 1 not in draw(logits[0], warm, range(200))


def test_penalties_come_before_temperature_and_before_the_greedy_choice() -> None:
    counts = TokenCounts(1)
    counts.extend([1])
    logits = torch.tensor([[4.0, 5.0, 0.0]])
    for temperature in (0.0, 1e-3):
        params = SamplingParams(temperature=temperature, repetition_penalty=2.0)
        assert tokens_of(sample(logits, [SamplingRow(params, 1, 0, counts)])) == [0]


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-5])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, top_p=0.5)
    assert set(draw(torch.tensor([1.0, 2.0, 1.999]), params, range(50))) == {1}


def test_logprobs_are_those_of_the_raw_distribution() -> None:
    logits = random_logits(3, 50)
    expected = logits.double().log_softmax(-1)
    counts = TokenCounts(0)
    counts.extend([1])
    params = SamplingParams(temperature=0.5, top_k=1, repetition_penalty=5.0, num_logprobs=3)
    rows = [
        SamplingRow(params, 1, 1, counts),
        SamplingRow(GREEDY, 1, 1),
        SamplingRow(replace(GREEDY, num_logprobs=0), 1, 1),
    ]
    first, without, own = sample(logits, rows)
    assert first.token_id is not None
    assert first.logprob == pytest.approx(expected[0, first.token_id].item(), abs=1e-5)
    assert [token for token, _ in first.top_logprobs] == expected[0].topk(3).indices.tolist()
    assert [value for _, value in first.top_logprobs] == pytest.approx(expected[0].topk(3).values.tolist(), abs=1e-5)
    assert without == ChunkResult(token_id=int(logits[1].argmax()))
    assert own.logprob == pytest.approx(expected[2].max().item(), abs=1e-5)
    assert own.top_logprobs == ()


def test_more_logprobs_than_tokens_are_all_there_are() -> None:
    (result,) = sample(torch.zeros(1, 4), [SamplingRow(replace(GREEDY, num_logprobs=20), 1, 1)])
    assert len(result.top_logprobs) == 4


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(top_p=0.9, num_logprobs=2), SamplingParams()])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_fail_their_row_only(params: SamplingParams, bad: float) -> None:
    logits = random_logits(3, 300)
    rows = [SamplingRow(params, 1, 0)] * 3
    healthy = sample(logits, rows)
    logits[1, 200] = bad
    assert sample(logits, rows) == [healthy[0], ChunkResult(error=NOT_FINITE), healthy[2]]


def test_a_row_whose_every_token_is_suppressed_is_an_error() -> None:
    params = SamplingParams(min_tokens=1, suppressed_token_ids=(0, 1))
    assert sample(torch.zeros(1, 2), [SamplingRow(params, 1, 0)]) == [ChunkResult(error=NO_CHOICE)]


def test_a_row_whose_every_weight_is_below_min_p_is_an_error() -> None:
    rows = [SamplingRow(SamplingParams(min_p=min_p), 1, 0) for min_p in (0.5, 2.0)]
    first, second = sample(torch.tensor([[0.0, 9.0]] * 2), rows)
    assert (first, second) == (ChunkResult(token_id=1), ChunkResult(error=NO_CHOICE))


def test_the_logits_are_left_as_they_were() -> None:
    logits = random_logits(2, 20)
    before = logits.clone()
    sample(logits, [SamplingRow(SamplingParams(min_tokens=1, suppressed_token_ids=(3,)), 1, 0)] * 2)
    assert torch.equal(logits, before)
