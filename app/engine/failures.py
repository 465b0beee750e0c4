"""When to believe that steps fail because of what computes them, and not because of what they were given."""

import time
from collections.abc import Callable

MAX_IN_A_ROW = 8
MAX_SECONDS = 60.0


class Failures:
    """Of steps in a row. Where there are many over some time, and nothing else, the device may be gone: a new process
    may mend that, and this one cannot. (A request that makes steps fail at will can bring that about on a server that
    serves nobody else.)"""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num = 0
        self._since = 0.0

    def add(self) -> None:
        if not self._num:
            self._since = self._clock()
        self._num += 1

    def clear(self) -> None:
        """A step has succeeded."""
        self._num = 0

    @property
    def are_hopeless(self) -> bool:
        return self._num >= MAX_IN_A_ROW and self._clock() - self._since > MAX_SECONDS
