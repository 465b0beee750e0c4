"""Who is let in, and what those who are not are told."""

import math
import threading
from collections.abc import Sequence

import pytest

from app.engine.admission import LONGEST_WAIT_S, UNKNOWN_WAIT_S, Admission
from app.engine.errors import QueueFull, ShuttingDown
from app.engine.limits import Limits
from app.engine.request import Request, RequestParams, Submission
from tests.fakes import BYTES


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def requests(*num_prompt_tokens: int) -> list[Request]:
    params = RequestParams(max_tokens=1)
    return [Request(Submission("x", (1,) * number, params), 0, BYTES, 0.0) for number in num_prompt_tokens]


def door(num_slots: int = 2, queue: int = 3, tokens: int = 1000, clock: Clock | None = None) -> Admission:
    return Admission(Limits(num_slots, 64, queue, tokens), clock or Clock())


def start(admission: Admission, started: Sequence[Request]) -> None:
    admission.started(started)
    for request in started:
        request.admission_time = 1.0


def test_as_many_come_in_as_there_are_slots_and_places_in_the_queue() -> None:
    admission = door(num_slots=2, queue=3)
    for _ in range(5):
        admission.enter(requests(1))
    with pytest.raises(QueueFull):
        admission.enter(requests(1))
    assert admission.num_inside == admission.num_queued == 5


def test_one_that_leaves_makes_room_for_one() -> None:
    admission, inside = door(), requests(1, 1, 1, 1, 1)
    admission.enter(inside)
    admission.left(inside[:1])
    admission.enter(requests(1))
    with pytest.raises(QueueFull):
        admission.enter(requests(1))


def test_a_submission_comes_in_whole_or_not_at_all() -> None:
    admission = door()
    admission.enter(requests(1, 1, 1))
    with pytest.raises(QueueFull):
        admission.enter(requests(1, 1, 1))
    admission.enter(requests(1, 1))
    assert admission.num_inside == 5


def test_while_a_slot_is_free_whatever_fits_the_server_at_all_comes_in() -> None:
    admission = door(num_slots=2, queue=0, tokens=10)
    admission.enter(requests(1))
    admission.enter(requests(*[100] * 9))
    with pytest.raises(QueueFull):
        admission.enter(requests(1))


def test_the_tokens_of_those_that_wait_are_bounded_and_no_others() -> None:
    admission, running = door(num_slots=2, queue=100, tokens=10), requests(500, 500)
    admission.enter(running)
    with pytest.raises(QueueFull):
        admission.enter(requests(1))  # they have no slot yet
    start(admission, running)
    waiting = requests(6)
    admission.enter(waiting)
    with pytest.raises(QueueFull):
        admission.enter(requests(5))
    admission.enter(requests(4))
    admission.left(waiting)
    assert admission.num_queued_tokens == 4


@pytest.mark.parametrize("has_run", [False, True])
def test_who_has_left_is_counted_nowhere(has_run: bool) -> None:
    admission, inside = door(), requests(3, 4)
    admission.enter(inside)
    if has_run:
        start(admission, inside)
    admission.left(inside)
    assert (admission.num_inside, admission.num_queued, admission.num_queued_tokens) == (0, 0, 0)


def test_the_wait_is_what_the_queue_takes_at_the_rate_of_late() -> None:
    clock = Clock()
    admission, inside = door(num_slots=2, queue=6, clock=clock), requests(*[1] * 8)
    admission.enter(inside)
    start(admission, inside[:4])
    admission.left(inside[:1])
    clock.now += 6.0
    admission.left(inside[1:2])  # two in six seconds, and four wait
    admission.enter(requests(1, 1))
    with pytest.raises(QueueFull) as caught:
        admission.enter(requests(1))
    assert caught.value.retry_after_s == pytest.approx(6 * 3.0)


def test_a_wait_of_which_nothing_is_known_is_a_guess_and_old_departures_are_nothing() -> None:
    clock = Clock()
    admission, inside = door(num_slots=1, queue=1, clock=clock), requests(1, 1)
    admission.enter(inside)
    with pytest.raises(QueueFull) as caught:
        admission.enter(requests(1))
    assert caught.value.retry_after_s == UNKNOWN_WAIT_S
    admission.left(inside[:1])
    admission.enter(requests(1))
    clock.now += 31.0
    with pytest.raises(QueueFull) as caught:
        admission.enter(requests(1))
    assert caught.value.retry_after_s == UNKNOWN_WAIT_S


@pytest.mark.parametrize(("seconds", "wait"), [(0.001, 1.0), (29.0, LONGEST_WAIT_S)])
def test_the_wait_is_neither_nothing_nor_for_ever(seconds: float, wait: float) -> None:
    clock = Clock()
    admission, inside = door(num_slots=1, queue=9, clock=clock), requests(*[1] * 10)
    admission.enter(inside)
    admission.left(inside[:1])
    admission.enter(requests(1))
    clock.now += seconds
    with pytest.raises(QueueFull) as caught:
        admission.enter(requests(1))
    assert caught.value.retry_after_s == wait


def test_behind_a_closed_door_those_inside_go_on_and_nobody_enters() -> None:
    admission, inside = door(), requests(1)
    admission.enter(inside)
    admission.close()
    with pytest.raises(ShuttingDown):
        admission.enter(requests(1))
    admission.left(inside)
    assert admission.num_inside == 0


def test_a_hundred_at_the_door_at_once_are_counted_right() -> None:
    admission = door(num_slots=10, queue=30)
    refused = []

    def enter() -> None:
        for _ in range(20):
            try:
                admission.enter(requests(1))
            except QueueFull:
                refused.append(1)

    threads = [threading.Thread(target=enter) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (admission.num_inside, len(refused)) == (40, 60)
    assert math.isfinite(admission.num_queued_tokens)
