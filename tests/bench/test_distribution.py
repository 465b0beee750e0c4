"""Percentiles of many durations in bounded memory, against numpy's of all of them."""

import numpy as np
import pytest

from app.bench.distribution import BUCKETS_PER_OCTAVE, Distribution

PERCENTS = (0, 50, 90, 95, 99, 99.9, 100)


def of(durations: "np.ndarray") -> Distribution:
    distribution = Distribution()
    distribution.extend(float(seconds) for seconds in durations)
    return distribution


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000, 20_000])
def test_figures_are_those_of_numpy(size: int) -> None:
    durations = np.random.default_rng(size).lognormal(-3, 2, size)
    distribution = of(durations)
    assert distribution.mean == pytest.approx(durations.mean(), rel=1e-9)
    assert distribution.std == pytest.approx(durations.std(), rel=1e-6, abs=1e-12)
    assert distribution.max == durations.max()
    for percent in PERCENTS:
        assert distribution.percentile(percent) == pytest.approx(np.percentile(durations, percent), rel=1 / 16_000)


def test_nothing_has_no_figures() -> None:
    empty = Distribution()
    assert (empty.mean, empty.std, empty.percentile(50)) == (None, None, None)


def test_zero_and_less_count_as_next_to_nothing() -> None:
    percentile = of(np.array([0.0, -1.0])).percentile(50)
    assert percentile is not None
    assert percentile <= 0.0


def test_memory_is_bounded_by_the_octaves_that_occur() -> None:
    distribution = of(np.random.default_rng(0).uniform(1.0, 2.0, 100_000))
    assert len(distribution._counts) <= BUCKETS_PER_OCTAVE


def test_a_histogram_counts_each_duration_between_its_edges() -> None:
    distribution = of(np.array([0.5, 1.5, 1.6, 2.5, 9.0]))
    assert distribution.histogram([0.1, 1.0, 2.0, 3.0]) == [1, 2, 1]
