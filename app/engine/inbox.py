"""The way in: calls that any thread puts, and that the engine thread makes between two steps. Once it is closed nothing
comes in, and who asked something and still waits is told so."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from app.engine.errors import EngineDead
from app.engine.stream import call_on

Answer = TypeVar("Answer")

_LONGEST_WAIT_S = 3600.0  # a queue cannot wait for ever


class Inbox:
    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._questions: set[asyncio.Future[Any]] = set()
        self._closing = threading.Lock()  # held to close, and to come in: nobody does after the end
        self._is_closed = False

    # ── any thread ──

    def put(self, call: Callable[[], None]) -> None:
        """A call that does no harm where nobody makes it any more."""
        self._calls.put(call)

    @contextmanager
    def open(self) -> Iterator[None]:
        """What is done inside is done before the end. Raises EngineDead where that has come."""
        with self._closing:
            if self._is_closed:
                raise EngineDead
            yield

    async def ask(self, question: Callable[[], Answer]) -> Answer:
        """What `question` answers on the engine thread. Raises EngineDead."""
        return await self.ask_later(lambda answer: answer(question()))

    async def ask_later(self, question: Callable[[Callable[[Answer], None]], None]) -> Answer:
        """Likewise, of a question that takes more than one step: `question` is given what to call, on that thread, with
        the answer."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        with self.open():
            self._questions.add(future)
            self.put(partial(question, partial(self._answer, future)))
        return await future

    def close(self) -> bool:
        """False: it was closed before."""
        with self._closing:
            was_open, self._is_closed = not self._is_closed, True
            return was_open

    def tell_who_asked(self, error: EngineDead) -> None:
        """After it is closed."""
        for future in list(self._questions):
            call_on(future.get_loop(), partial(_resolve, future, error))

    # ── the engine thread ──

    def wait(self, seconds: float) -> None:
        """For a call, which is made, or until the time is over."""
        try:
            call = self._calls.get(timeout=min(max(0.0, seconds), _LONGEST_WAIT_S))
        except Empty:
            return
        call()

    def make_calls(self) -> None:
        """Those that have come in."""
        while not self._calls.empty():
            self._calls.get()()

    def _answer(self, future: asyncio.Future[Answer], answer: Answer) -> None:
        self._questions.discard(future)
        call_on(future.get_loop(), partial(_resolve, future, answer))


def _resolve(future: asyncio.Future[Answer], answer: Answer | EngineDead) -> None:
    if future.done():  # its waiter has gone
        return
    if isinstance(answer, EngineDead):
        future.set_exception(answer)
    else:
        future.set_result(answer)
