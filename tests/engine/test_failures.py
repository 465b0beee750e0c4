"""Failed steps in a row, and when they are a sign of something worse."""

from app.engine.failures import MAX_IN_A_ROW, MAX_SECONDS, Failures


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def failing(number: int, seconds: float) -> Failures:
    clock = Clock()
    failures = Failures(clock)
    for _ in range(number):
        failures.add()
    clock.now += seconds
    return failures


def test_many_over_a_long_time_are_hopeless() -> None:
    assert failing(MAX_IN_A_ROW, MAX_SECONDS + 1).are_hopeless


def test_few_or_in_a_short_time_are_not() -> None:
    assert not failing(MAX_IN_A_ROW - 1, MAX_SECONDS + 1).are_hopeless
    assert not failing(1000, MAX_SECONDS - 1).are_hopeless
    assert not failing(0, 1e9).are_hopeless


def test_one_step_that_succeeds_begins_the_count_anew() -> None:
    failures = failing(MAX_IN_A_ROW, MAX_SECONDS + 1)
    failures.clear()
    failures.add()
    assert not failures.are_hopeless
