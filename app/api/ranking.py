"""`best_of`: which of a prompt's candidates are the answer."""

import math
from collections.abc import Sequence
from statistics import fmean

from app.engine.request import TokenEvent


def best(candidates: Sequence[Sequence[TokenEvent]], n: int) -> list[Sequence[TokenEvent]]:
    """Those with the highest mean log-probability of their tokens, the best first; of equals, the earlier."""
    return sorted(candidates, key=_mean_logprob, reverse=True)[:n]


def _mean_logprob(events: Sequence[TokenEvent]) -> float:
    """Least where there is no token at all."""
    logprobs = [event.logprob for event in events if event.logprob is not None]
    return fmean(logprobs) if logprobs else -math.inf
