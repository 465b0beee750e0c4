"""Which candidates are the answer of best_of."""

from app.api.ranking import best
from app.engine.request import TokenEvent


def candidate(index: int, *logprobs: float) -> list[TokenEvent]:
    return [*(TokenEvent(index, 97, logprob=logprob) for logprob in logprobs), TokenEvent(index)]


def test_the_mean_counts_and_not_the_length():
    short, long, poor = candidate(0, -1.0), candidate(1, -0.5, -0.75, -0.25), candidate(2, -2.0)

    assert best([short, long, poor], 2) == [long, short]


def test_of_equals_the_earlier_comes_first():
    first, second = candidate(0, -1.0), candidate(1, -1.0)

    assert best([first, second], 1) == [first]


def test_what_said_nothing_comes_last():
    assert best([candidate(0), candidate(1, -50.0)], 1) == [candidate(1, -50.0)]
