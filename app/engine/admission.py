"""The door: how many requests may be inside, waiting and running, and who is sent away.

It is asked on the event loop, and told by the engine thread who was given a slot and who has left; a lock of its own
keeps the count. In which order requests run is not its business.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from app.engine.errors import QueueFull, ShuttingDown
from app.engine.limits import Limits
from app.engine.request import Request

UNKNOWN_WAIT_S = 10.0  # where nobody has left of late
LONGEST_WAIT_S = 60.0  # a client that is told more would ask elsewhere
RECENTLY_S = 30.0
NUM_DEPARTURES = 256  # that tell how fast the queue moves


class Admission:
    """`num_queued` counts those that wait for their first slot, and `num_queued_tokens` their prompts' tokens."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.num_inside = 0
        self.num_queued = 0
        self.num_queued_tokens = 0
        self.is_open = True
        self._limits = limits
        self._clock = clock
        self._departures: deque[float] = deque(maxlen=NUM_DEPARTURES)
        self._lock = threading.Lock()

    def enter(self, requests: Sequence[Request]) -> None:
        """Lets all of them in, or none. Raises ShuttingDown or QueueFull."""
        num_tokens = sum(request.num_prompt_tokens for request in requests)
        with self._lock:
            self._refuse_without_room(len(requests), num_tokens)
            self.num_inside += len(requests)
            self.num_queued += len(requests)
            self.num_queued_tokens += num_tokens

    def require_room(self) -> None:
        """Raises as `enter` would, however small the request."""
        with self._lock:
            self._refuse_without_room(1, 1)

    def started(self, requests: Iterable[Request]) -> None:
        """They were given their first slot."""
        with self._lock:
            for request in requests:
                self._dequeue(request)

    def left(self, requests: Iterable[Request]) -> None:
        """They have ended, in whatever way."""
        with self._lock:
            now = self._clock()
            for request in requests:
                self.num_inside -= 1
                self._departures.append(now)
                if request.admission_time is None:
                    self._dequeue(request)

    def close(self) -> None:
        """Lets nobody in any more."""
        with self._lock:
            self.is_open = False

    def _dequeue(self, request: Request) -> None:
        self.num_queued -= 1
        self.num_queued_tokens -= request.num_prompt_tokens

    def _refuse_without_room(self, num_requests: int, num_tokens: int) -> None:
        limits = self._limits
        if not self.is_open:
            raise ShuttingDown
        if self.num_inside < limits.max_num_seqs:
            return
        too_many = self.num_inside + num_requests > limits.max_num_seqs + limits.max_queued_requests
        if too_many or self.num_queued_tokens + num_tokens > limits.max_queued_tokens:
            raise QueueFull("Too many requests wait already; come again later.", self._wait())

    def _wait(self) -> float:
        """Seconds until those who wait now will have had their turn, if requests go on leaving as they did of late."""
        now = self._clock()
        while self._departures and self._departures[0] < now - RECENTLY_S:
            self._departures.popleft()
        if not self._departures:
            return UNKNOWN_WAIT_S
        seconds_each = (now - self._departures[0]) / len(self._departures)
        return min(max(1.0, self.num_queued * seconds_each), LONGEST_WAIT_S)
