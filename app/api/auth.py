"""Lets a request pass that bears an API key, or asks for health. Pure ASGI, in front of every route and of /docs.

The path is the one that the router will see, compared as it is: whatever it would have to be normalised to, it is not
health.
"""

import hashlib
import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.errors import WrongApiKey, error_response

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready"})


class ApiKeys:
    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._is_authorised(scope):
            await self._app(scope, receive, send)
            return
        error = WrongApiKey("An API key is needed, in the header Authorization: Bearer KEY.")
        await error_response(error)(scope, receive, send)

    def _is_authorised(self, scope: Scope) -> bool:
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(sent) != 1:
            return False
        scheme, _, key = sent[0].partition(b" ")
        digest = _digest(key.strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all, so that time tells nothing
        return scheme.lower() == b"bearer" and any(matches)


def _digest(key: bytes) -> bytes:
    """Of one length, whatever the key's."""
    return hashlib.sha256(key).digest()
