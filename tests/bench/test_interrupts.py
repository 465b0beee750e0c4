"""Ctrl-C, once and twice."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from app.bench.interrupts import stopped_by_interrupt
from app.bench.loop import in_loop


@pytest.fixture(autouse=True)
def as_in_a_terminal() -> Iterator[None]:
    """Whoever runs the tests in the background has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_sets_an_event_and_afterwards_all_is_as_before() -> None:
    async def work() -> bool:
        with stopped_by_interrupt() as stop:
            interrupt()
            async with asyncio.timeout(5):
                await stop.wait()
        return True

    before = signal.getsignal(signal.SIGINT)
    assert in_loop(work())
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_ends_the_command() -> None:
    async def work() -> None:
        with stopped_by_interrupt() as stop:
            interrupt()
            await stop.wait()
            interrupt()
            await asyncio.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        in_loop(work())
