"""Load on a simulated queue, of which it is known whether it is too much."""

from collections.abc import Callable, Sequence

import pytest

from app.bench.records import Record
from app.bench.saturation import FIRST_ANSWERS, MAX_POINTS, Saturation
from tests.bench.queueing import Queue, progress


def reached_at(queue: Queue) -> float | None:
    """As a run does it: records when they end, progress four times a second, and a look each time."""
    saturation = Saturation()
    waiting = sorted(queue.records(), key=lambda record: record.ended)
    for tick in queue.ticks():
        while waiting and waiting[0].ended <= tick.elapsed:
            saturation.record(waiting.pop(0))
        saturation.progress(tick)
        if saturation.is_reached:
            return tick.elapsed
    return None


@pytest.mark.parametrize("num_slots", [1, 8, 16])
@pytest.mark.parametrize("load", [0.5, 0.8, 0.95])
def test_a_server_that_keeps_up_is_never_suspected(load, num_slots):
    assert [reached_at(Queue(load, num_slots, num_slots / 8, seed)) for seed in range(8)] == [None] * 8


@pytest.mark.parametrize("num_slots", [1, 8, 16])
def test_a_server_that_is_asked_for_half_as_much_again_is_found_out(num_slots):
    times = [reached_at(Queue(1.5, num_slots, num_slots / 8, seed)) for seed in range(8)]

    assert all(time is not None and 10 <= time < 30 for time in times)


def test_gross_overload_is_found_as_soon_as_there_is_enough_to_go_by():
    assert [reached_at(Queue(4.0, seed=seed)) for seed in range(8)] == [10.0] * 8


def test_an_idle_server_that_fills_up_is_not_overloaded():
    """Answers that take long: in flight rises for the first fifth of the time, from nothing to what is right."""
    assert reached_at(Queue(0.7, num_slots=64, service_s=8.0)) is None


def fed(in_flight: list[int], waits: list[float], sent_a_second: int = 10) -> Saturation:
    saturation = Saturation()
    for second, (number, wait) in enumerate(zip(in_flight, waits, strict=True)):
        saturation.progress(progress(float(second), second * sent_a_second, number))
        saturation.record(Record(second, second - wait, second - wait, float(second), float(second)))
    return saturation


RISING, LEVEL = list(range(0, 400, 10)), [5] * 40


def test_both_must_rise():
    longer = [number / 10 for number in RISING]

    assert fed(RISING, longer).is_reached
    assert not fed(LEVEL, longer).is_reached
    assert not fed(RISING[::-1], longer[::-1]).is_reached
    assert not fed([number // 10 for number in RISING], [0.5] * 40).is_reached


def test_in_flight_must_rise_by_more_than_chance_brings_and_by_half():
    longer = [float(second) for second in range(40)]

    assert not fed([second // 2 for second in range(40)], longer, sent_a_second=100).is_reached
    assert not fed([1000 + number for number in RISING], longer).is_reached
    assert fed([100 + number for number in RISING], longer).is_reached


def test_what_the_client_holds_back_is_waiting_too():
    saturation = Saturation()
    for second, number in enumerate(RISING):
        saturation.progress(progress(float(second), second * 10, number, limit=4))
        saturation.record(Record(second, 0.0, second - 0.1, float(second), float(second)))
    assert saturation.is_reached


def unanswered(in_flight: Callable[[float], float], answer_times: Sequence[float]) -> Saturation:
    """20 requests a second for 40 seconds; the only answers are of the beginning, so that no waits are known later."""
    saturation = Saturation()
    for number, answer_time in enumerate(answer_times):
        saturation.record(Record(number, 0.0, 0.0, None, answer_time))
    for tick in range(160):
        saturation.progress(progress(tick / 4, 5 * tick, round(in_flight(tick / 4))))
    return saturation


def test_a_server_that_hardly_answers_is_found_out_once_it_has_had_the_time():
    assert unanswered(lambda now: 20 * now, [2.0]).is_reached
    assert not unanswered(lambda now: 20 * now, [12.0]).is_reached  # it may still be filling up
    assert not unanswered(lambda now: 20 * now, []).is_reached


def test_without_waits_there_must_be_far_more_in_flight_than_chance_brings():
    assert not unanswered(lambda now: 3.5 * now, [2.0]).is_reached


def test_how_long_a_server_takes_to_fill_is_told_by_its_first_answers():
    assert unanswered(lambda now: 20 * now, [*[2.0] * FIRST_ANSWERS, *[30.0] * 100]).is_reached


def test_what_comes_while_the_server_fills_does_not_count():
    """In flight and waits rise together for six seconds, twice what an answer takes, and then stay."""
    saturation = Saturation()
    reached = []
    for tick in range(160):
        now = tick / 4
        level = min(now / 6, 1.0)
        saturation.progress(progress(now, 5 * tick, round(150 * level)))
        saturation.record(Record(tick, now - 3.0, now - 3.0, now - 3.0 + level, now))
        reached.append(saturation.is_reached)
    assert not any(reached)


def test_nothing_is_said_about_nothing():
    assert not Saturation().is_reached
    saturation = Saturation()
    for second in range(100):
        saturation.progress(progress(float(second), second, second))
    assert not saturation.is_reached  # no answer at all: what they wait for is not known


def test_memory_is_bounded_and_the_answer_the_same():
    saturation = Saturation()
    for tick in range(20_000):
        saturation.progress(progress(tick / 4, tick, tick // 2))
        saturation.record(Record(tick, tick / 4 - tick / 100, 0.0, tick / 4, tick / 4))

    assert saturation.is_reached
    for series in (saturation._open, saturation._due, saturation._waits):
        assert len(series.points) < MAX_POINTS
