"""Lets a request pass that bears an API key, or asks for health, and says whose it is. Pure ASGI, in front of every
route and of /docs.

The path is the one that the router will see, compared as it is: whatever it would have to be normalised to, it is not
health.
"""

import hashlib
import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.errors import WrongApiKey, error_response

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready"})
NOBODY = ""  # who asks without a key


class ApiKeys:
    """`keys`: each with its owner, who may have several. The owner of a request is in `request.state.owner`. Without
    keys, everybody may ask, and all are one."""

    def __init__(self, app: ASGIApp, keys: Sequence[tuple[str, str]]) -> None:
        self._app = app
        self._owners = [owner for owner, _ in keys]
        self._digests = [_digest(key.encode()) for _, key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        owner = self._owner(scope)
        if owner is None:
            error = WrongApiKey("An API key is needed, in the header Authorization: Bearer KEY, or in x-api-key.")
            await error_response(error, scope)(scope, receive, send)
            return
        scope.setdefault("state", {})["owner"] = owner
        await self._app(scope, receive, send)

    def _owner(self, scope: Scope) -> str | None:
        """None: it may not pass."""
        if not self._digests or scope["path"] in OPEN_PATHS:
            return NOBODY
        digest = _digest(_sent_key(scope))
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all, so that time tells nothing
        return self._owners[matches.index(True)] if any(matches) else None


def _sent_key(scope: Scope) -> bytes:
    """OpenAI's header decides where it is there, once; else Anthropic's. Empty, which no key is, for anything else."""
    bearer = [value for name, value in scope["headers"] if name == b"authorization"]
    plain = [value for name, value in scope["headers"] if name == b"x-api-key"]
    if not bearer:
        return plain[0].strip() if len(plain) == 1 else b""
    scheme, _, key = bearer[0].partition(b" ")
    return key.strip() if len(bearer) == 1 and scheme.lower() == b"bearer" else b""


def _digest(key: bytes) -> bytes:
    """Of one length, whatever the key's."""
    return hashlib.sha256(key).digest()
