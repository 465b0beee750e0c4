"""The watchdog, on progress that the tests make up."""

import threading
from collections.abc import Iterable

from app.engine.watchdog import Watchdog

PATIENCE_S = 30  # of a test that waits for the watchdog, or for it to have looked often enough


class Looks:
    """What the watchdog sees, look after look; the last for ever."""

    def __init__(self, seen: Iterable[int | None]) -> None:
        self._seen = list(seen)
        self.num_looks = 0
        self.has_looked_on = threading.Event()

    def __call__(self) -> int | None:
        self.num_looks += 1
        if self.num_looks > len(self._seen) + 20:
            self.has_looked_on.set()
        return self._seen[min(self.num_looks, len(self._seen)) - 1]


def test_so_many_equal_looks_in_a_row_are_enough() -> None:
    looks, stuck = Looks([1, 2, 2, 3, 3, 3, 3]), threading.Event()
    with Watchdog(looks, stuck.set, patience_s=0.004, interval_s=0.001):
        assert stuck.wait(PATIENCE_S)
    assert looks.num_looks == 7


def test_an_engine_that_goes_on_is_left_alone() -> None:
    looks, stuck = Looks([1, 1, 2, 2, 3, 3, *range(4, 60)]), threading.Event()
    with Watchdog(looks, stuck.set, patience_s=0.003, interval_s=0.0005):
        while looks.num_looks < 50:
            assert not stuck.wait(0.0005)


def test_an_engine_with_nothing_to_do_is_not_stuck_however_long() -> None:
    looks, stuck = Looks([1, 1, None]), threading.Event()
    with Watchdog(looks, stuck.set, patience_s=0.003, interval_s=0.001):
        assert looks.has_looked_on.wait(PATIENCE_S)
        assert not stuck.is_set()


def test_a_rest_between_two_equal_looks_begins_the_count_anew() -> None:
    looks, stuck = Looks([1, 1, None, 1, 1, 1]), threading.Event()
    with Watchdog(looks, stuck.set, patience_s=0.003, interval_s=0.001):
        assert stuck.wait(PATIENCE_S)
    assert looks.num_looks == 6


def test_it_ends_with_its_context() -> None:
    looks = Looks([None])
    with Watchdog(looks, lambda: None, patience_s=1, interval_s=0.001) as watchdog:
        pass
    watchdog._thread.join(PATIENCE_S)
    assert not watchdog._thread.is_alive()
