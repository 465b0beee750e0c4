"""Turns requests away that the engine would refuse whatever they are, before anything of them is read: an overloaded
server has no time to spare on what it cannot do. Pure ASGI."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.errors import error_response
from app.engine.errors import TryAgain

# Of the routes that ask the engine for something.
PATHS = frozenset(
    {
        *("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"),
        "/generate",
    }
)


def asks_the_engine(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in PATHS


class Door:
    """Behind `ApiKeys`: how busy the server is, is not for everybody."""

    def __init__(self, app: ASGIApp, require_room: Callable[[], None]) -> None:
        """`require_room` raises TryAgain."""
        self._app = app
        self._require_room = require_room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if asks_the_engine(scope):
            try:
                self._require_room()
            except TryAgain as error:
                await error_response(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)
