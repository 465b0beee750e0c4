"""Which tokens the filters leave: at their bounds, in their order, and where a shortcut could go wrong. Whether all of
them together do what the rule says is tested in test_sampling.py."""

import math

import pytest
import torch

from model.batch import SamplingParams
from model.torch_backend import filters
from tests.model.sampling_by_the_book import BookRow, kept_weights, token_of
from tests.model.torch_backend.rows import draw, random_logits


def drawn(logits: list[float], **params: float) -> set[int]:
    return set(draw(torch.tensor(logits), SamplingParams(**params), range(300)).tolist())  # type: ignore[arg-type]


def of_shares(*shares: float) -> list[float]:
    return [math.log(share) for share in shares]


@pytest.mark.parametrize(
    ("params", "num_kept"),
    [
        ({"top_k": 2}, 3),  # 0, 1 and 2 are equal
        ({"top_p": 0.2}, 3),
        ({"top_k": 4, "top_p": 0.999}, 4),
        ({"min_p": 0.3}, 4),  # the fourth has weight 1/e = 0.37
        ({"top_p": 0.0}, 3),
    ],
)
def test_equals_of_the_last_one_kept_stay(params: dict[str, float], num_kept: int) -> None:
    assert drawn([3.0, 3.0, 3.0, 2.0, -1.0], **params) == set(range(num_kept))


def test_top_p_is_a_share_of_what_top_k_left() -> None:
    logits = [2.0, 1.0, *[0.0] * 6]  # weights e^2, e, 1 …: the first is 0.73 of two, 0.46 of all
    assert drawn(logits, top_k=2, top_p=0.7) == {0}
    assert drawn(logits, top_p=0.5) == {0, 1}


def test_typical_tokens_are_those_whose_surprise_is_near_the_mean() -> None:
    """-ln p: 0.92 and 0.92, 2.3, 2.3; their mean 1.19 is 0.28 from the first and 1.1 from the others."""
    assert drawn(of_shares(0.1, 0.4, 0.4, 0.1), typical_p=0.75) == {1, 2}
    assert drawn(of_shares(0.1, 0.4, 0.4, 0.1), typical_p=0.85) == {0, 1, 2}  # of equals, the lowest id


def test_the_most_likely_token_may_be_untypical() -> None:
    """The mean is 2.6; the first is 1.9 away from it, the others 0.8."""
    shares = [0.5, *[0.5 / 64] * 64]
    assert 0 not in drawn(of_shares(*shares), typical_p=0.2)
    assert len(drawn(of_shares(*shares), typical_p=0.0)) == 1


def test_min_p_is_a_share_of_the_largest_that_is_left() -> None:
    shares = [0.5, *[0.5 / 64] * 64]
    few = drawn(of_shares(*shares), typical_p=0.03, min_p=0.9)
    assert few == {1, 2, 3, 4}  # each of them 1/64 of the first


def test_typical_p_is_a_share_of_what_top_k_left_and_top_p_of_what_typical_p_left() -> None:
    logits = of_shares(0.3, 0.3, 0.1, 0.1, 0.1, 0.1)
    assert drawn(logits, top_k=2, typical_p=0.9) == {0, 1}
    assert drawn(logits, top_k=2, typical_p=0.5) == {0}
    assert drawn(logits, typical_p=0.6, top_p=0.5) == {0, 1}


def test_top_p_does_not_come_before_typical_p() -> None:
    """It would leave the first token only, which typical_p takes away."""
    shares = [0.5, *[0.5 / 64] * 64]
    assert drawn(of_shares(*shares), typical_p=0.03, top_p=0.5) == {1, 2, 3, 4}, "which are equal"


def test_sigmas_are_of_the_finite_logits_and_know_no_temperature() -> None:
    logits = [4.0, 2.0, 0.0, -2.0, -math.inf]  # mean 1, sigma sqrt(5) = 2.24
    for temperature in (0.5, 1.0, 30.0):
        assert drawn(logits, temperature=temperature, top_n_sigma=0.8) == {0}
        assert drawn(logits, temperature=temperature, top_n_sigma=0.9) == {0, 1}
    assert drawn(logits, temperature=30.0, top_n_sigma=1.79) == {0, 1, 2}
    assert drawn(logits, temperature=30.0, top_n_sigma=2.69) == {0, 1, 2, 3}


def test_top_k_counts_among_what_the_sigmas_left() -> None:
    logits = [5.0, 5.0, 1.0, 1.0, 1.0]
    assert drawn(logits, top_n_sigma=1.0, top_k=4, temperature=100.0) == {0, 1}


def test_xtc_leaves_the_least_likely_of_the_likely_and_all_below() -> None:
    logits = of_shares(0.4, 0.3, 0.2, 0.06, 0.04)
    assert drawn(logits, xtc_probability=1.0, xtc_threshold=0.15) == {2, 3, 4}
    assert drawn(logits, xtc_probability=1.0, xtc_threshold=0.35) == {0, 1, 2, 3, 4}, "one alone stays"
    assert drawn(logits, xtc_probability=1.0, xtc_threshold=0.5) == {0, 1, 2, 3, 4}
    assert drawn(of_shares(0.4, 0.25, 0.25, 0.1), xtc_probability=1.0, xtc_threshold=0.2) == {1, 2, 3}
    assert drawn(logits, xtc_probability=1.0, xtc_threshold=0.21, top_k=3) == {2}  # of these, 0.2 is 0.22
    assert drawn([*logits, -math.inf], xtc_probability=1.0, xtc_threshold=0.0) == {4}, "the last that has any weight"


def test_xtc_strikes_as_often_as_it_should_and_not_with_the_number_of_the_draw() -> None:
    logits = torch.tensor(of_shares(0.5, 0.5 - 1e-6, 1e-6))
    params = SamplingParams(xtc_probability=0.3, xtc_threshold=0.1, seed=3)
    tokens = draw(logits, params, range(4000))
    assert (tokens == 0).mean() == pytest.approx(0.7 / 2, abs=0.025)


@pytest.mark.parametrize("params", [SamplingParams(top_p=0.9), SamplingParams(top_k=4000), SamplingParams(top_k=2048)])
def test_flat_rows_that_no_window_can_hold_are_cut_exactly(params: SamplingParams) -> None:
    logits = random_logits(1, 6000, spread=0.01)[0]
    logits[:2500] = 0.5  # more equals than the larger window: its last is not the end of them
    kept = kept_weights(logits.tolist(), params)
    tokens = draw(logits, params, range(2000))
    assert len(kept) > max(filters.WINDOWS)
    assert set(tokens) <= set(kept)
    assert token_of(BookRow(logits.tolist(), params, 7)) == tokens[7]


@pytest.mark.parametrize("window", [1, 2, 3, 10, 300])
@pytest.mark.parametrize("limits", [{"top_k": 5}, {"top_p": 0.6}, {"top_k": 20, "top_p": 0.9}, {"top_k": 250}])
def test_the_windows_change_nothing(window: int, limits: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    params = SamplingParams(top_n_sigma=2.0, **limits)  # type: ignore[arg-type]
    logits = random_logits(1, 300, seed=window)[0]
    monkeypatch.setattr(filters, "WINDOWS", (window,))
    expected = [token_of(BookRow(logits.tolist(), params, position)) for position in range(40)]
    assert draw(logits, params, range(40)).tolist() == expected
