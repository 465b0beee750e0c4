"""HTTP/1.1 to one server over sockets that are kept open, as cheap as it goes: the client shares its cores with the
server. Requests are bytes that were made beforehand; of an answer only what a measurement asks for is kept.

(`app/bench/connection.py` keeps no headers, and cannot leave in the middle of an answer.)
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httptools

HOST = "127.0.0.1"


class Broken(Exception):
    """The connection ended before the answer did."""


@dataclass(slots=True)
class Answer:
    """As it comes. Times are those of perf_counter."""

    sent: float
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    first: float = 0.0  # of the body
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        return self.ended - self.sent

    def json(self) -> Any:
        return json.loads(self.body)


def request(path: str, body: Any = None, *, raw: bytes | None = None, kind: str = "application/json") -> bytes:
    """POST where there is a body, as JSON or as it is (`raw`); else GET."""
    content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
    method = "GET" if raw is None and body is None else "POST"
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


class _Connection(asyncio.Protocol):
    """One socket; the methods that begin with `on_` are httptools' callbacks."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport
        self._answer: Answer | None = None
        self._done: asyncio.Future[None]
        self._on_piece: Callable[[Answer], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is none by its class
        self.is_open = True

    async def ask(self, data: bytes, on_piece: Callable[[Answer], None] | None) -> Answer:
        self._answer, self._on_piece = Answer(time.perf_counter()), on_piece
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        answer = self._answer
        try:
            await self._done
        except BaseException:
            self.close()
            raise
        finally:
            self._answer = None
        return answer

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the answer is not HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self._fail(f"the connection was lost: {error or 'closed'}")

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self._answer is not None
        self._answer.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        assert self._answer is not None
        self._answer.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        answer = self._answer
        assert answer is not None
        answer.first = answer.first or time.perf_counter()
        answer.body += data
        if self._on_piece is not None:
            self._on_piece(answer)

    def on_message_complete(self) -> None:
        assert self._answer is not None
        self._answer.ended = time.perf_counter()
        self.is_open = self.is_open and self._parser.should_keep_alive()
        if not self._done.done():
            self._done.set_result(None)

    def close(self) -> None:
        self.is_open = False
        self._transport.abort()

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._done.done():
            self._done.set_exception(Broken(why))


class Wire:
    """As many connections as there are requests at a time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._idle: list[_Connection] = []

    async def ask(self, data: bytes, on_piece: Callable[[Answer], None] | None = None) -> Answer:
        """Raises Broken. Cancelled, it leaves: the server sees the connection end. `on_piece` is called whenever more
        of the body is there."""
        connection = await self._take()
        answer = await connection.ask(data, on_piece)
        if connection.is_open:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    async def get(self, path: str) -> Any:
        return (await self.ask(request(path))).json()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _take(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        try:
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, HOST, self.port)
        except OSError as error:
            raise Broken(f"no connection: {error}") from error
        return connection
