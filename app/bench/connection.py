"""HTTP/1.1 to one server, no more of it than a load test needs, over sockets that are kept open between requests.

The client shares its cores with the server it measures, so the path of a piece of a stream is short: the event loop,
httptools' parser, the receiver. What an answer means is not known here, nor are redirects, cookies and proxies.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self, cast
from urllib.parse import urlsplit

import httptools

from app.bench.errors import BadWorkload
from app.bench.records import Failure


class Lost(Exception):
    """An exchange did not come to its end."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Site:
    """Where a server is. `prefix` stands before the path of every request."""

    host: str
    port: int
    is_tls: bool
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """`localhost:8000`, `https://host`, `http://host:8000/v1` (the API's /v1 may be there). Raises BadWorkload."""
        mistake = BadWorkload(f"{url} is not the URL of a server; write http://HOST:PORT")
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError as error:
            raise mistake from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise mistake
        is_tls = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if is_tls else 80), is_tls, parts.path.rstrip("/").removesuffix("/v1"))

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
        lines = [
            f"{method} {self.prefix}{path} HTTP/1.1",
            f"Host: {self.authority}",
            *(f"{name}: {value}" for name, value in headers.items()),
            f"Content-Length: {len(body)}",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body


class Receiver(Protocol):
    """Takes one answer in. Once it has had enough, the rest is not read."""

    has_enough: bool

    def head(self, status: int) -> None: ...

    def body(self, data: bytes, now: float) -> None:
        """`now` is perf_counter when the data was there."""


class _Exchange:
    """One answer as it is parsed; the methods without an underscore are httptools' callbacks."""

    def __init__(self, receiver: Receiver) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_complete = False
        self.has_begun = False
        self._receiver = receiver
        self._parser = httptools.HttpResponseParser(self)
        self._has_head = False
        self._has_length = False
        self._is_kept_alive = False
        self._now = 0.0

    @property
    def leaves_connection_open(self) -> bool:
        return self.is_complete and self._is_kept_alive

    def feed(self, data: bytes) -> None:
        self._now = time.perf_counter()
        self.has_begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(Lost(Failure.NONSENSE, f"the answer is not HTTP: {error}"))
        if self.is_complete or self._receiver.has_enough:
            self._end()

    def lost(self, error: Exception | None) -> None:
        if self._has_head and not self._has_length:  # then the end of the connection is the body's (RFC 9112, 6.3)
            self._end()
        failure = Failure.BROKEN if self.has_begun else Failure.UNREACHABLE
        self._end(Lost(failure, f"the connection was lost{f': {error}' if error else ''}"))

    def _end(self, error: Lost | None = None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: ARG002 - httptools' signature
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._has_length = True

    def on_headers_complete(self) -> None:
        self._has_head = True
        self._is_kept_alive = self._parser.should_keep_alive()
        self._receiver.head(self._parser.get_status_code())

    def on_body(self, data: bytes) -> None:
        self._receiver.body(data, self._now)

    def on_message_complete(self) -> None:
        self.is_complete = True


class _Connection(asyncio.Protocol):
    """One socket, and at most one exchange at a time on it."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._exchange: _Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:  # nothing was asked
            self.close()
        else:
            self._exchange.feed(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._exchange is not None:
            self._exchange.lost(error)

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, request: bytes, receiver: Receiver) -> None:
        """Raises Lost. Afterwards the connection is open if it can be used again."""
        assert self._transport is not None
        assert self._exchange is None
        exchange = self._exchange = _Exchange(receiver)
        self._transport.write(request)
        try:
            await exchange.done
        finally:
            self._exchange = None
            if not exchange.leaves_connection_open:
                self.close()


class Connections:
    """As many sockets to a server as there are requests at a time."""

    def __init__(self, site: Site, *, is_verified: bool = True) -> None:
        self.site = site
        self._ssl = _ssl_context(is_verified) if site.is_tls else None
        self._idle: list[_Connection] = []

    async def exchange(self, request: bytes, receiver: Receiver) -> None:
        """Raises Lost. A server may close an idle connection just when it is used again: then a new one is tried, since
        nothing was answered."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_open:
                continue
            try:
                await connection.exchange(request, receiver)
            except Lost as lost:
                if lost.failure is not Failure.UNREACHABLE:
                    raise
                continue
            return self._keep(connection)
        connection = await self._connect()
        await connection.exchange(request, receiver)
        self._keep(connection)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _keep(self, connection: _Connection) -> None:
        if connection.is_open:
            self._idle.append(connection)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(_Connection, self.site.host, self.site.port, ssl=self._ssl)
        except OSError as error:
            raise Lost(Failure.UNREACHABLE, f"{self.site.authority} cannot be reached: {error}") from error
        return connection


def _ssl_context(is_verified: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not is_verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
