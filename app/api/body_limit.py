"""Bounds the bodies of requests: their size, by what they announce and by what comes, and the time that they take.

Pure ASGI. A body is refused before the rest of it is read, and the connection closes behind the answer: nobody reads on
to find out where the next request would begin. A body that no route asks for is not read at all.
"""

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import BodyTooLarge, RequestTooSlow, error_response

MAX_BODY = 16 * 1024 * 1024  # bytes: four million characters, and each of them in four bytes
SECONDS_TO_SEND = 10.0  # … and one more for each …
SLOWEST = 64 * 1024  # … bytes that have come


class BodyLimit:
    def __init__(self, app: ASGIApp, max_body: int, seconds_to_send: float = SECONDS_TO_SEND) -> None:
        self._app = app
        self._max_body = max_body
        self._seconds_to_send = seconds_to_send

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced(scope) > self._max_body:
            await error_response(self._too_large(), scope)(scope, receive, send)
            return
        body = _Body(receive, self._max_body, time.monotonic() + self._seconds_to_send)
        await self._app(scope, body.receive, send)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(self._max_body)


class _Body:
    """Of one request, as it comes. Once it is whole, what is received is no longer looked at."""

    def __init__(self, receive: Receive, max_body: int, deadline: float) -> None:
        self._receive, self._max_body, self._deadline = receive, max_body, deadline
        self._num_bytes = 0
        self._is_whole = False

    async def receive(self) -> Message:
        """Raises BodyTooLarge or RequestTooSlow."""
        if self._is_whole:
            return await self._receive()
        left = self._deadline + self._num_bytes / SLOWEST - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.0))
        except TimeoutError:
            raise RequestTooSlow("The body did not come in time.") from None
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._max_body:
            raise BodyTooLarge(self._max_body)
        self._is_whole = not message.get("more_body", False)
        return message


def _announced(scope: Scope) -> int:
    """What the server has parsed already, so that it is a number; 0 where a body comes in chunks."""
    return max((int(value) for name, value in scope["headers"] if name == b"content-length"), default=0)
