"""When requests are due in an open loop."""

import math
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest

from app.bench.arrivals import arrivals
from app.bench.records import RunSettings


def due(limit: int = 100_000, **settings: Any) -> list[float]:
    return list(islice(arrivals(RunSettings("http://localhost", "model", **settings)), limit))


def gaps(times: list[float]) -> "np.ndarray":
    return np.diff(times)


@pytest.mark.parametrize(("burstiness", "variation"), [(0.25, 2.0), (1.0, 1.0), (4.0, 0.5)])
def test_gaps_have_the_rates_mean_and_the_burstiness_variation(burstiness: float, variation: float) -> None:
    drawn = gaps(due(request_rate=20.0, burstiness=burstiness, num_prompts=20_000))
    assert drawn.mean() == pytest.approx(1 / 20, rel=0.05)
    assert drawn.std() / drawn.mean() == pytest.approx(variation, rel=0.05)


def test_an_infinite_burstiness_is_a_constant_rate() -> None:
    assert due(request_rate=4.0, burstiness=math.inf, num_prompts=5) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_duration_ends_them() -> None:
    assert due(request_rate=4.0, burstiness=math.inf, duration=1.0) == [0.0, 0.25, 0.5, 0.75]


def test_an_infinite_rate_sends_all_at_once() -> None:
    assert due(num_prompts=3) == [0.0, 0.0, 0.0]


def test_a_seed_makes_the_same_times_and_another_one_others() -> None:
    assert due(request_rate=1.0, num_prompts=10) == due(request_rate=1.0, num_prompts=10)
    assert due(request_rate=1.0, num_prompts=10) != due(request_rate=1.0, num_prompts=10, seed=1)


@pytest.mark.parametrize(("ramp", "middle"), [("linear", 25.5), ("exponential", math.sqrt(50))])
def test_a_ramp_over_requests_goes_from_the_first_rate_to_the_last(ramp: str, middle: float) -> None:
    times = due(ramp=ramp, ramp_from=1.0, ramp_to=50.0, burstiness=math.inf, num_prompts=102)
    rates = [1 / (later - earlier) for earlier, later in pairwise(times)]
    assert rates[0] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(50.0, rel=0.03 if ramp == "linear" else 0.05)
    assert np.mean(rates[50:52]) == pytest.approx(middle, rel=0.03)


def test_a_ramp_over_a_duration_reaches_its_rate_by_the_end() -> None:
    times = due(ramp="linear", ramp_from=10.0, ramp_to=30.0, burstiness=math.inf, duration=10.0)
    assert len(times) == pytest.approx(200, rel=0.02)  # 20 a second on average
    assert 1 / (times[-1] - times[-2]) == pytest.approx(30.0, rel=0.02)
