"""Submits the requests of one HTTP request, sends what comes back, as it comes or in one body, and frees them whatever
happens. How anything looks on the wire is for a `Writer` or a `Render` to say.

A stream is ASCII throughout, so that no cut in it can split a character. Its first bytes wait for the first token (or
for the first ping): a request that fails before has a proper status, and a client that times the first byte times the
first token.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.api.answers import by_choice, raise_if_failed
from app.api.errors import GenerationFailed
from app.api.schemas.wire import WireAnswer
from app.engine.errors import EngineDead
from app.engine.request import Submission, TokenEvent

PING = b": ping\n\n"
PING_AFTER_S = 15.0  # of silence; naive clients stumble over comments, so only where a proxy might lose patience
HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}

Render = Callable[[Sequence[Sequence[TokenEvent]]], WireAnswer]  # the events of each submission → the whole answer


class Writer(Protocol):
    """One stream in the words of one API: ASCII, whole server-sent events."""

    @property
    def is_finished(self) -> bool:
        """All submissions have had their last event, and the end of the stream is written."""

    def write(self, events: Sequence[TokenEvent]) -> bytes:
        """What the next events, at least one, make of the stream; empty if there is nothing to show yet. Raises
        GenerationFailed or EngineDead."""
        ...

    def error(self, error: Exception) -> bytes:
        """The last words of a stream that has begun and failed."""
        ...


class Events(Protocol):
    """As `EventStream`."""

    async def next(self) -> list[TokenEvent]: ...

    def abort(self) -> None: ...


Submit = Callable[[Sequence[Submission]], Events]  # raises Refused


class EngineResponse(Response):
    """Submits, answers, and frees: whether the answer is complete, failed, or its client has gone, on leaving this
    response nothing of its requests is left in the engine."""

    def __init__(self, submit: Submit, submissions: Sequence[Submission]) -> None:
        super().__init__()
        self._submit = submit
        self._submissions = submissions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's signature
        stream = self._submit(self._submissions)
        answering = asyncio.create_task(self._answer(stream, send))
        leaving = asyncio.create_task(_client_leaves(receive))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            stream.abort()
            answering.cancel()
            leaving.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    @abstractmethod
    async def _answer(self, stream: Events, send: Send) -> None:
        """Sends all of the response. Raises GenerationFailed or EngineDead where nothing has been sent yet."""


class WholeAnswer(EngineResponse):
    """One JSON body, when all choices are complete."""

    def __init__(self, submit: Submit, submissions: Sequence[Submission], render: Render) -> None:
        super().__init__(submit, submissions)
        self._render = render

    async def _answer(self, stream: Events, send: Send) -> None:
        events: list[TokenEvent] = []
        while arrived := await stream.next():
            raise_if_failed(arrived)
            events += arrived
        answer = self._render(by_choice(events, len(self._submissions)))
        body = answer.model_dump_json().encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        await send(_start(headers))
        await send({"type": "http.response.body", "body": body})


class StreamedAnswer(EngineResponse):
    """Server-sent events, as the tokens come."""

    def __init__(
        self,
        submit: Submit,
        submissions: Sequence[Submission],
        writer: Writer,
        ping_after_s: float = PING_AFTER_S,
    ) -> None:
        super().__init__(submit, submissions)
        self._writer = writer
        self._ping_after_s = ping_after_s
        self._is_started = False

    async def _answer(self, stream: Events, send: Send) -> None:
        silent_since = asyncio.get_running_loop().time()
        try:
            while not self._writer.is_finished:
                data = await self._next_bytes(stream, silent_since + self._ping_after_s)
                if data:
                    await self._send(send, data, more=not self._writer.is_finished)
                    silent_since = asyncio.get_running_loop().time()
        except (GenerationFailed, EngineDead) as error:
            if not self._is_started:
                raise
            await self._send(send, self._writer.error(error), more=False)

    async def _next_bytes(self, stream: Events, deadline: float) -> bytes:
        try:
            async with asyncio.timeout_at(deadline):
                events = await stream.next()
        except TimeoutError:
            return PING
        return self._writer.write(events)

    async def _send(self, send: Send, data: bytes, *, more: bool) -> None:
        if not self._is_started:
            self._is_started = True
            await send(_start(HEADERS))
        await send({"type": "http.response.body", "body": data, "more_body": more})


def _start(headers: dict[str, str]) -> Message:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": 200, "headers": raw}


async def _client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
