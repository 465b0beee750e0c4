"""When requests are to be sent in an open loop: seconds since the run's start, drawn ahead of any answer.

A closed loop has no arrivals: there a request is due when an earlier one is answered.
"""

import math
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np

from app.bench.records import RunSettings


def arrivals(settings: RunSettings) -> Iterator[float]:
    """Endless where neither a number of requests nor a duration ends it. Gaps are drawn from the gamma distribution
    with mean 1 / rate and shape `burstiness`: 1 is a Poisson process, less comes in bursts, inf is evenly spaced."""
    rate_at = _rate(settings)
    rng = np.random.default_rng((settings.seed, 1))
    now = 0.0
    for number in count() if settings.num_prompts is None else range(settings.num_prompts):
        if settings.duration is not None and now >= settings.duration:
            return
        yield now
        rate = rate_at(number, now)
        if math.isfinite(rate):
            now += _gap(rng, settings.burstiness) / rate


def _gap(rng: np.random.Generator, burstiness: float) -> float:
    """With mean 1."""
    return rng.gamma(burstiness, 1 / burstiness) if math.isfinite(burstiness) else 1.0


def _rate(settings: RunSettings) -> Callable[[int, float], float]:
    """The rate after request `number`, at a time. A ramp runs over the duration, or else over the requests."""
    start, end, is_linear = settings.ramp_from, settings.ramp_to, settings.ramp == "linear"

    def steady(_number: int, _now: float) -> float:
        return settings.request_rate

    def share(number: int, now: float) -> float:
        if settings.duration is not None:
            return min(now / settings.duration, 1.0)
        assert settings.num_prompts is not None
        return number / max(settings.num_prompts - 1, 1)

    def rate(number: int, now: float) -> float:
        done = share(number, now)
        return start + (end - start) * done if is_linear else start * (end / start) ** done

    return steady if settings.ramp is None else rate
