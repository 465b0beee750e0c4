"""uvicorn's HTTP/1.1, with bounds on what stands before a body: how many bytes and headers, and how long it may take.
What breaks them, or is no HTTP, is answered in the shape of all other errors, and the connection closes.

Bodies are another's business (`api/body_limit.py`); so are connections that wait for their next request, which uvicorn
closes itself.
"""

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.errors import HeadersTooLarge, MalformedRequest, RequestTooSlow, error_body, kind_of

MAX_HEAD = 64 * 1024  # bytes of request line and headers; a key or a cookie has some hundred
MAX_HEADERS = 200
SECONDS_FOR_HEAD = 10.0


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    seconds_for_head = SECONDS_FOR_HEAD

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._num_head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_head:
            self._num_head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._is_too_large():
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
        if self._is_too_large():
            raise _too_large()  # httptools wraps it, and uvicorn takes it for what is no HTTP
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own words, which are plain text
        malformed = MalformedRequest("This is not HTTP/1.1 as the server reads it.")
        self._refuse(_too_large() if self._is_too_large() else malformed)

    def _is_too_large(self) -> bool:
        return self._num_head_bytes > MAX_HEAD or len(self.headers or ()) > MAX_HEADERS

    def _waits_for_nothing(self) -> bool:
        is_idle = self.cycle is None or self.cycle.response_complete
        return is_idle and self._head_timer is None and self.timeout_keep_alive_task is None

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.seconds_for_head, self._time_is_up)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _time_is_up(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(RequestTooSlow("The headers did not come in time."))
        elif not self.transport.is_closing():
            self.transport.close()  # nothing has come: there is nobody to be told

    def _refuse(self, error: Exception) -> None:
        """A client that has another answer coming is not told: it would take this for that one."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started):
            self.transport.write(_response(error))
        self._stop_timer()
        self.transport.close()


def _too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"A request may have {MAX_HEADERS} headers, and {MAX_HEAD} bytes before its body.")


def _response(error: Exception) -> bytes:
    kind = kind_of(error)
    body = json.dumps(error_body(error)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **kind.headers}
    lines = [f"HTTP/1.1 {kind.status} {HTTPStatus(kind.status).phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
