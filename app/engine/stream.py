"""The way back: from the engine thread to the one task on the event loop that waits for a submission's events.

The engine never waits for a reader. A reader that falls too far behind has its requests aborted and misses nothing of
what was kept for it.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from app.engine.request import TokenEvent

MAX_BUFFERED_EVENTS = 16_384  # of one submission; beyond it the reader is taken to have stalled


class EventStream:
    """The events of one submission, in order, until each of its requests has had its last."""

    def __init__(
        self, num_requests: int, abort: Callable[[], None], max_buffered_events: int = MAX_BUFFERED_EVENTS
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.num_tokens = 0  # that were generated, and have come as far as this
        self._num_open = num_requests
        self._abort = abort
        self._max_buffered_events = max_buffered_events
        self._events: list[TokenEvent] = []
        self._arrived = asyncio.Event()
        self._is_aborted = False

    @property
    def is_over(self) -> bool:
        """Each request has had its last event, whether or not it has been read."""
        return not self._num_open

    async def next(self) -> list[TokenEvent]:
        """Waits, and returns all events since the last call; an empty list when all requests have ended."""
        while not self._events and self._num_open:
            self._arrived.clear()
            await self._arrived.wait()
        events, self._events = self._events, []
        return events

    def abort(self) -> None:
        """Ends what has not ended yet. May be called at any time, and again."""
        if self._num_open and not self._is_aborted:
            self._is_aborted = True
            self._abort()

    def deliver(self, event: TokenEvent) -> None:
        """Called on the event loop, for each event of the submission. (An engine that was given up as stuck may yet
        come to its senses, after all was told to have ended.)"""
        if not self._num_open:
            return
        if event.finish_reason is not None:
            self._num_open -= 1
        self.num_tokens += event.token_id is not None
        self._events.append(event)
        if len(self._events) > self._max_buffered_events:
            self.abort()
        self._arrived.set()


def deliver(events: Iterable[tuple[EventStream, TokenEvent]]) -> None:
    """Called on the event loop."""
    for stream, event in events:
        stream.deliver(event)


def call_on(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Has `call` made on the event loop. A loop that is closed has nobody left who waits."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
