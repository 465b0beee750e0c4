"""Tests in a time of their own: it stands still while anything happens, and jumps to the next timer when nothing does.
So what takes 10 ms takes exactly that on a busy machine, too. Sockets are real.
"""

import asyncio
import functools
import selectors
import time
from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

SECONDS_TO_ARRIVE = 0.0005  # real ones, for what was just written to a socket of this machine


class _Selector(selectors.DefaultSelector):
    """Waits for no timer."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        ready = super().select(0) or (super().select(SECONDS_TO_ARRIVE) if timeout > 0 else [])
        if not ready:
            self.now += max(timeout, 0.0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def in_virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """For an async test; time.perf_counter tells the same time as the loop."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            loop = runner.get_loop()
            with mock.patch.object(time, "perf_counter", loop.time):
                runner.run(test(*args, **kwargs))  # type: ignore[arg-type]

    return run
