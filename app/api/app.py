"""Puts the HTTP surface together: routers, errors, ids, keys, and the engine's life inside the server's.

Knows no route's business and builds no model or engine: it is given them.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app.api.access import OPEN_TO_ALL, Access
from app.api.auth import ApiKeys
from app.api.body_limit import BodyLimit
from app.api.chat.calls import ChatCalls
from app.api.chat.route import Chat
from app.api.completions import Completions
from app.api.door import Door
from app.api.embeddings import Pooling
from app.api.errors import install_error_handlers
from app.api.generation import Generation
from app.api.health import HealthChecks
from app.api.messages.route import AnthropicMessages
from app.api.metering import Metering
from app.api.metrics import Metrics
from app.api.models import Models
from app.api.rate_limit_headers import NAMES, RateLimitHeaders
from app.api.rate_limits import RateLimits
from app.api.render import Rendering
from app.api.request_id import RequestIds
from app.api.requests import Requests
from app.api.responses.route import Responses
from app.api.rollouts import LoadWeights, RolloutRoutes
from app.api.served import ServedModel
from app.api.slots import SlotViews
from app.api.stream import PING_AFTER_S
from app.api.tokens import Tokenization
from app.api.version import Versions
from app.engine.engine import Engine
from app.version import installed_version

DESCRIPTION = """Serves small language models, every request in a KV cache slot of its own.

The fields of requests are strict: one that is not supported is refused by name."""


def create_app(
    served: ServedModel,
    engine: Engine,
    metrics: Metrics,
    access: Access = OPEN_TO_ALL,
    ping_after_s: float = PING_AFTER_S,
    load_weights: LoadWeights | None = None,
) -> FastAPI:
    """`metrics.observe` is what the engine was built with. Without `load_weights` no weights can be brought."""
    app = FastAPI(
        title="slotwise",
        description=DESCRIPTION,
        version=installed_version(),
        lifespan=_lifespan(engine),
        redirect_slashes=False,
    )
    app.state.long_work = asyncio.Lock()
    limits = RateLimits.of(access)
    submit = Metering(engine, limits).submit if limits else engine.submit
    generation = Generation(served, engine, submit, ping_after_s, access.max_tokens_per_minute)
    for resource in (
        Completions(generation),
        Chat(generation),
        Responses(ChatCalls(generation)),
        AnthropicMessages(ChatCalls(generation)),
        Pooling(served, engine, submit),
        Models(served),
        Tokenization(served),
        Rendering(served),
        Requests(served, engine),
        SlotViews(served, engine),
        Versions(served, engine.info),
        HealthChecks(engine),
        metrics,
    ):
        app.include_router(resource.router())
    if load_weights:
        app.include_router(RolloutRoutes(generation, load_weights).router())
    install_error_handlers(app)
    _guard(app, access, limits, engine.admission.require_room)
    return app


def _guard(app: FastAPI, access: Access, limits: RateLimits | None, require_room: Callable[[], None]) -> None:
    """What every request passes, from the inside out."""
    app.add_middleware(Door, require_room=require_room)
    app.add_middleware(BodyLimit, max_body=access.max_body, seconds_to_send=access.seconds_to_send)
    if limits:
        app.add_middleware(RateLimitHeaders, limits=limits)
    app.add_middleware(ApiKeys, keys=access.keys)
    if access.origins:  # a browser asks beforehand, without a key, whether it may
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "request-id", "retry-after", "openai-processing-ms", *NAMES],
        )
    app.add_middleware(RequestIds)  # whatever is answered bears an id


def _lifespan(engine: Engine) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(engine.stop)

    return lifespan
