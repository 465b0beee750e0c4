"""New weights: what is running ends, the runners change places between two steps, and what waits goes on with the new.

No request lives across a swap: its keys and values are the old weights'. So nobody is let in who has not begun, until
all who have begun are through and the old runner has destroyed what they held. Builds no runner, and judges no weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial

from app.engine.inbox import Inbox
from app.engine.request import Emission, FinishReason
from app.engine.scheduler import Scheduler
from model.batch import Runner, RunnerInfo

ENDED = "New weights are served from now on, and whoever brought them had all requests ended; send it again."


class OtherShape(ValueError):
    """A runner that cannot take the place of the one there is: the message says in what it differs."""


class SwapPending(RuntimeError):
    """Another runner waits already."""

    def __init__(self, message: str = "Other weights are on their way; wait until they are served.") -> None:
        super().__init__(message)


class Swaps:
    """Of one engine. `publish` as Engine has it."""

    def __init__(
        self, inbox: Inbox, scheduler: Scheduler, info: RunnerInfo, publish: Callable[[Sequence[Emission]], None]
    ) -> None:
        self._inbox = inbox
        self._scheduler = scheduler
        self._info = info
        self._publish = publish
        self._next: Runner | None = None
        self._done: Callable[[None], None] = lambda _: None

    async def swap(self, runner: Runner, *, ends_open: bool = False) -> None:
        """Returns once `runner` is the engine's. What has begun finishes on the old one first; with `ends_open` all
        that runs or waits ends at once with an error. Raises OtherShape, EngineDead, or SwapPending."""
        require_same_shape(self._info, runner.info)
        if self._next is not None:
            raise SwapPending
        self._next = runner
        await self._inbox.ask_later(partial(self._begin, ends_open))

    # ── on the engine thread ──

    def due(self, runner: Runner) -> Runner:
        """The runner of the next step: `runner`, or another where nothing is left of what that has begun."""
        if self._scheduler.admits_new or self._scheduler.has_begun or self._next is None:
            return runner
        following, self._next = self._next, None
        self._scheduler.admits_new = True
        self._scheduler.num_swaps += 1
        self._done(None)
        return following

    def _begin(self, ends_open: bool, done: Callable[[None], None]) -> None:
        self._scheduler.admits_new = False
        self._done = done
        if ends_open:
            requests = self._scheduler.open_requests
            self._publish([self._scheduler.end(request, FinishReason.ERROR, ENDED) for request in requests])


def require_same_shape(served: RunnerInfo, offered: RunnerInfo) -> None:
    """The scheduler counts in the one's blocks, and the API tells of it. Raises OtherShape."""
    for field in fields(RunnerInfo):
        before, after = getattr(served, field.name), getattr(offered, field.name)
        if before != after:
            raise OtherShape(f"{field.name} is {after}, and {before} is served.")
