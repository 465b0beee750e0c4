"""What SIGINT and SIGTERM do until the server has taken them over (`app/server.py`): two ways to end a command."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 128 + signal.SIGINT  # the status, as a shell reports it


@contextmanager
def unwinding() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: what is half done is undone. It does so also in a container's first
    process, for which the system's own reaction to SIGTERM is none."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    with _handled_by(leave, signal.SIGTERM):
        yield


@contextmanager
def ending_at_once(command: str) -> Iterator[None]:
    """Either signal ends the process where it is, for work that leaves nothing half done but must not be unwound:
    torch's import calls Python from C++, and an exception there aborts the process with a page of symbols."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        sys.stderr.write(f"{command}: interrupted.\n")
        sys.stderr.flush()
        os._exit(128 + number)

    with _handled_by(end, signal.SIGINT, signal.SIGTERM):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any], *numbers: signal.Signals) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in previous.items():
            signal.signal(number, handler_before)
