"""Gives every request an id, its client's own where that is well formed, and every answer the headers that tell it and
the time that the answer took: a stream's until its first byte.

Pure ASGI: it adds headers and touches nothing else, so a stream passes through unbuffered.
"""

import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import speaks_anthropic

WELL_FORMED = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
HEADER = b"x-request-id"
ANTHROPIC_HEADER = b"request-id"
PROCESSING_MS = b"openai-processing-ms"  # OpenAI's name


class RequestIds:
    """The id is in `request.state.request_id`, and behind the prefix of the answer's own id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        request_id = request_id_of(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        names = (HEADER, ANTHROPIC_HEADER) if speaks_anthropic(scope) else (HEADER,)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                elapsed_ms = round((time.monotonic() - started) * 1000)
                ids = [(name, request_id.encode()) for name in names]
                elapsed = (PROCESSING_MS, str(elapsed_ms).encode())
                message["headers"] = [*message.get("headers", ()), *ids, elapsed]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def request_id_of(scope: Scope) -> str:
    sent = [value for name, value in scope["headers"] if name == HEADER]
    if len(sent) == 1 and WELL_FORMED.fullmatch(sent[0]):
        return str(sent[0], "ascii")
    return secrets.token_hex(16)
