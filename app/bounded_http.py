"""uvicorn's HTTP/1.1, with bounds on what stands around a body (how many bytes and headers), on the time that a head
has to come and an answer to be taken, and on how many connections there are. What breaks the first, or is no HTTP, is
answered in the shape of all other errors, and the connection closes; whoever does not take an answer is cut.

Bodies are another's business (`api/body_limit.py`); so are connections that wait for their next request, which uvicorn
closes itself, and peers that vanish, whom the kernel notices (`listener.py`).
"""

import asyncio
import json
import math
import socket
import struct
import sys
from collections import deque
from http import HTTPStatus
from typing import Any, cast

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.api.errors import (
    HeadersTooLarge,
    MalformedRequest,
    RequestTooSlow,
    TooManyConnections,
    error_body,
    headers_of,
    kind_of,
)

MAX_HEAD = 64 * 1024  # bytes of request line and headers; a key or a cookie has some hundred
MAX_HEADERS = 200
SECONDS_FOR_HEAD = 10.0
SECONDS_TO_TAKE = 30.0  # what waits for a client, and …
BYTES_A_SECOND = 64 * 1024  # … one more for so many bytes of it
MAX_UNANSWERED = 2  # requests sent ahead of their answers, before nothing more is read
MAX_REFUSED = 64  # connections above the limit that are told so; more are cut


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    seconds_for_head = SECONDS_FOR_HEAD
    seconds_to_take = SECONDS_TO_TAKE

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_connections = math.inf if self.limit_concurrency is None else self.limit_concurrency
        self.limit_concurrency = None  # uvicorn would refuse all requests then, of old connections too, in plain text
        self._is_surplus = False
        self._in_head = False
        self._upgrade_at: int | None = None  # where, in what has just come, a head ended that asks for an upgrade
        self._num_head_bytes = 0  # … and of what frames a body, since the last byte of that
        self._head_timer: asyncio.TimerHandle | None = None
        self._taking_timer: asyncio.TimerHandle | None = None
        self._unanswered: deque[RequestResponseCycle] = deque()  # the first is being answered, the others wait

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        num_surplus = len(self.connections) - self._max_connections
        self._is_surplus = num_surplus > 0  # those that were there before it are served
        if num_surplus > MAX_REFUSED:
            self._cut()
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_taking_timer()
        self._unset_keepalive_if_required()  # uvicorn leaves it running behind a reset
        self._tell_all_that_the_client_left()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """Of a client that closes, and of one that only sends no more, this is all that is seen: both have left. The
        transport now closes, but not before everything is taken."""
        self._tell_all_that_the_client_left()
        self._start_taking_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_taking_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():  # that waits for the last byte
            self._stop_taking_timer()

    def on_response_complete(self) -> None:
        self._unanswered.popleft()
        super().on_response_complete()
        if self.transport.is_closing():
            self._start_taking_timer()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._start_taking_timer()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._num_head_bytes += len(data)
        super().data_received(data)
        while self._upgrade_at is not None:
            data = self._without_offer(data[self._upgrade_at :])
            super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_too_large():
            self._refuse(_too_large())
        elif self._waits_for_nothing():
            self._start_timer()  # a blank line or two have come, and uvicorn no longer waits for more

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._num_head_bytes = True, 0
        self._start_timer()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        self._num_head_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if self._is_surplus or self._is_too_large():
            raise self._problem()  # httptools wraps it, and uvicorn takes it for what is no HTTP
        self._num_head_bytes = 0
        if self._asks_for_upgrade():
            return
        super().on_headers_complete()
        self._unanswered.append(self.cycle)
        if len(self._unanswered) == MAX_UNANSWERED:
            self.flow.resume_reading()  # uvicorn reads nothing behind a request that waits, and would not see the end

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # behind a body there may be more, which nobody asks for
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._num_head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_head_bytes = 0
        if not self._asks_for_upgrade():
            super().on_message_complete()

    def _should_upgrade(self) -> bool:
        return False  # whatever libraries there are

    def _unsupported_upgrade_warning(self) -> None:
        """Where uvicorn ends with such a head, the exception under way tells how much has been read."""
        (self._upgrade_at,) = cast(HttpParserUpgrade, sys.exception()).args

    def _asks_for_upgrade(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"  # that is no HTTP to us

    def _without_offer(self, rest: bytes) -> bytes:
        """Whoever offers an upgrade, as Java's client does (to HTTP/2), means his request all the same; but httptools
        takes what follows the head for another protocol. Returns the head to be read anew, and the rest."""
        self._upgrade_at = None
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        return b"\r\n".join([line, *headers, b"", b""]) + rest

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own words, which are plain text
        self._refuse(self._problem())

    def _problem(self) -> Exception:
        if self._is_surplus:
            return TooManyConnections("The server has as many connections as it can.")
        malformed = MalformedRequest("This is not HTTP/1.1 as the server reads it.")
        return _too_large() if self._is_too_large() else malformed

    def _is_too_large(self) -> bool:
        return self._num_head_bytes > MAX_HEAD or len(self.headers or ()) > MAX_HEADERS

    def _waits_for_nothing(self) -> bool:
        return not self._unanswered and self._head_timer is None and self.timeout_keep_alive_task is None

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.seconds_for_head, self._time_is_up)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _start_taking_timer(self) -> None:
        if self._taking_timer is None:
            seconds = self.seconds_to_take + self.transport.get_write_buffer_size() / BYTES_A_SECOND
            self._taking_timer = self.loop.call_later(seconds, self._cut)

    def _stop_taking_timer(self) -> None:
        if self._taking_timer is not None:
            self._taking_timer.cancel()
            self._taking_timer = None

    def _cut(self) -> None:
        """What is unsent is dropped, by the kernel too, and the client sees a reset."""
        at_once = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.transport.abort()

    def _tell_all_that_the_client_left(self) -> None:
        """uvicorn tells the last request only, which need not be the one that is being answered."""
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        self.flow.resume_writing()

    def _time_is_up(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(RequestTooSlow("The headers did not come in time."))
        else:
            self._close()  # nothing has come: there is nobody to be told

    def _refuse(self, error: Exception) -> None:
        """A client that has another answer coming is not told: it would take this for that one."""
        if self.transport.is_closing():
            return
        if not self._unanswered or self._waits_for_a_body():
            self.transport.write(_response(error))
        self._stop_timer()
        self._close()

    def _waits_for_a_body(self) -> bool:
        """There is one request, its body has not come whole, and nothing is said to it yet."""
        first, *others = self._unanswered
        return not others and first.more_body and not first.response_started

    def _close(self) -> None:
        self.transport.close()
        self._start_taking_timer()


def _too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"A request may have {MAX_HEADERS} headers, and {MAX_HEAD} bytes before its body.")


def _response(error: Exception) -> bytes:
    kind = kind_of(error)
    body = json.dumps(error_body(error)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **headers_of(error)}
    lines = [f"HTTP/1.1 {kind.status} {HTTPStatus(kind.status).phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
