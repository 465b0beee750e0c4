"""Gives every request an id, its client's own where that is well formed, and every answer the header that tells it.

Pure ASGI: it adds a header and touches nothing else, so a stream passes through unbuffered.
"""

import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

WELL_FORMED = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
HEADER = b"x-request-id"


class RequestIds:
    """The id is in `request.state.request_id`, and behind the prefix of the answer's own id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (HEADER, request_id.encode())]
            await send(message)

        await self._app(scope, receive, send_with_id)


def request_id_of(scope: Scope) -> str:
    sent = [value for name, value in scope["headers"] if name == HEADER]
    if len(sent) == 1 and WELL_FORMED.fullmatch(sent[0]):
        return str(sent[0], "ascii")
    return secrets.token_hex(16)
