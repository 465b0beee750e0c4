"""What an answer says of its client's rate limits, in the headers that OpenAI's clients know or Anthropic's. Who has no
request left is sent away here, before anything is read.

Pure ASGI: it adds headers and touches nothing else, so a stream passes through unbuffered. They tell how it stands when
the answer begins: while a stream runs, all that it may yet generate is charged.
"""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.door import asks_the_engine
from app.api.errors import error_response, speaks_anthropic
from app.api.rate_limits import RateLimits, Standing
from app.engine.errors import TryAgain

NAMES = (
    *(f"x-ratelimit-{what}-{unit}" for unit in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
    *(
        f"anthropic-ratelimit-{unit}-{what}"
        for unit in ("requests", "tokens")
        for what in ("limit", "remaining", "reset")
    ),
)


class RateLimitHeaders:
    """Behind `ApiKeys`, which says who asks."""

    def __init__(self, app: ASGIApp, limits: RateLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not asks_the_engine(scope):
            await self._app(scope, receive, send)
            return
        owner: str = scope["state"]["owner"]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = [(name.encode(), value.encode()) for name, value in self._headers(scope, owner)]
                message["headers"] = [*message.get("headers", ()), *told]
            await send(message)

        try:
            self._limits.require(owner)
        except TryAgain as error:
            await error_response(error, scope)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _headers(self, scope: Scope, owner: str) -> Iterator[tuple[str, str]]:
        told = anthropic_headers if speaks_anthropic(scope) else openai_headers
        for limit in (self._limits.requests, self._limits.tokens):
            if limit:
                yield from told(limit.unit, limit.standing(owner))


def openai_headers(unit: str, standing: Standing) -> Iterator[tuple[str, str]]:
    yield f"x-ratelimit-limit-{unit}", str(standing.limit)
    yield f"x-ratelimit-remaining-{unit}", str(standing.remaining)
    yield f"x-ratelimit-reset-{unit}", duration(standing.reset_s)


def anthropic_headers(unit: str, standing: Standing) -> Iterator[tuple[str, str]]:
    reset = datetime.now(UTC) + timedelta(seconds=math.ceil(standing.reset_s))
    yield f"anthropic-ratelimit-{unit}-limit", str(standing.limit)
    yield f"anthropic-ratelimit-{unit}-remaining", str(standing.remaining)
    yield f"anthropic-ratelimit-{unit}-reset", reset.strftime("%Y-%m-%dT%H:%M:%SZ")


def duration(seconds: float) -> str:
    """As OpenAI writes it, never too short: 20ms, 1s, 6m0s."""
    milliseconds = math.ceil(seconds * 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
