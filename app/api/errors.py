"""One table: what went wrong → the status and OpenAI's error body, or Anthropic's on the routes that are Anthropic's.
No other file chooses a status for a failure.

Messages say what would be right; they never repeat a value that the client sent, and no body is longer than 2 KB (4 KB
where an API has its message in two places).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from app.engine.errors import EngineDead, QueueFull, RequestTooLong, ShuttingDown, TryAgain
from app.engine.swaps import OtherShape, SwapPending

MAX_MESSAGE = 400  # characters: at four bytes each, and with `param`, still less than 2 KB
MAX_PARAM = 80
CLOSES: Mapping[str, str] = MappingProxyType({"connection": "close"})  # nobody reads what else the client sends
ANTHROPIC_ROUTES = "/v1/messages"
UPDATE_ROUTE = "/update_weights_from_disk"  # SGLang's: its refusals are told as its clients know them, too
ANTHROPIC_TYPES: Mapping[int, str] = MappingProxyType(
    {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
    }
)


class InvalidRequest(ValueError):
    """A request that can be read and is wrong in one field, or in the body as a whole (no field)."""

    def __init__(self, param: str | None, problem: str) -> None:
        self.param = param and param[:MAX_PARAM]
        super().__init__(f"{self.param}: {problem}" if param else problem)


class WrongApiKey(ValueError):
    """No API key, or one that the server does not have."""


class UnknownModel(ValueError):
    """No model of that name is served."""


class UnknownRequest(ValueError):
    """No live request has that id, or none of the same owner."""


class RequestCancelled(Exception):
    """By its id, before there was anything to answer."""


class NoThreads(ValueError):
    """An Anthropic client wants its conversation held here; told so, it sends the whole of it each time."""


class WeightsRefused(ValueError):
    """New weights that cannot be served; the old ones are."""


class UnsupportedContent(ValueError):
    """A body in an encoding that is not read; names the header."""


class BodyTooLarge(ValueError):
    """More bytes than the server reads of one request."""

    def __init__(self, max_body: int) -> None:
        super().__init__(f"The body may have at most {max_body} bytes.")


class RequestTooSlow(ValueError):
    """A request that does not come to its end in time."""


class MalformedRequest(ValueError):
    """No HTTP, or not as this server wants it."""


class HeadersTooLarge(ValueError):
    """More headers, or longer ones, than the server reads."""


class ExceedsRateLimit(ValueError):
    """One request with more tokens than its owner may have in a minute: no waiting helps."""


class TooManyConnections(TryAgain):
    """As many as the server has descriptors for."""


class GenerationFailed(Exception):
    """The engine ended a request with an error."""


@dataclass(frozen=True, slots=True)
class ErrorKind:
    status: int
    type: str = "invalid_request_error"
    code: str | None = None
    message: str | None = None  # None: the exception's own
    param: str | None = None  # None: the exception's own, if it has one
    headers: Mapping[str, str] = field(default_factory=dict)


@cache  # an overloaded server looks it up for each request that it turns away
def kinds_of_errors() -> Mapping[type[Exception], ErrorKind]:
    return {
        InvalidRequest: ErrorKind(400),
        RequestTooLong: ErrorKind(400, code="context_length_exceeded", param="max_tokens"),
        ExceedsRateLimit: ErrorKind(400, code="exceeds_rate_limit", param="max_tokens"),
        ClientDisconnect: ErrorKind(400, message="The body ended before its time."),
        WrongApiKey: ErrorKind(401, code="invalid_api_key", headers={"www-authenticate": "Bearer"}),
        UnknownModel: ErrorKind(404, code="model_not_found", param="model"),
        UnknownRequest: ErrorKind(404, code="request_not_found"),
        RequestCancelled: ErrorKind(400, code="request_cancelled"),  # no status that clients would try again on
        NoThreads: ErrorKind(
            400, code="thread_unsupported_request", message="thread: conversations are not held here."
        ),
        WeightsRefused: ErrorKind(400, code="weights_refused", param="model_path"),
        OtherShape: ErrorKind(400, code="weights_refused", param="model_path"),
        SwapPending: ErrorKind(409, code="update_pending"),
        UnsupportedContent: ErrorKind(415),
        MalformedRequest: ErrorKind(400, headers=CLOSES),
        RequestTooSlow: ErrorKind(408, code="request_timeout", headers=CLOSES),
        BodyTooLarge: ErrorKind(413, code="request_too_large", headers=CLOSES),
        HeadersTooLarge: ErrorKind(431, code="headers_too_large", headers=CLOSES),
        TooManyConnections: ErrorKind(503, "server_error", "too_many_connections", headers=CLOSES),
        GenerationFailed: ErrorKind(500, "server_error"),
        TryAgain: ErrorKind(429, "rate_limit_error", "rate_limit_exceeded"),
        QueueFull: ErrorKind(429, "rate_limit_error", "queue_full"),
        ShuttingDown: ErrorKind(503, "server_error", "shutting_down", headers=CLOSES),  # … and asks elsewhere
        EngineDead: ErrorKind(503, "server_error", "engine_dead"),
        Exception: ErrorKind(500, "server_error", message="The server failed at this request; its log says why."),
    }


def kinds_of_statuses() -> Mapping[int, ErrorKind]:
    """What the router refuses by itself."""
    return {
        404: ErrorKind(404, code="not_found", message="There is no such route; GET /docs lists those there are."),
        405: ErrorKind(405, code="method_not_allowed", message="This route has other methods; see the header Allow."),
    }


def kind_of(error: Exception) -> ErrorKind:
    if isinstance(error, HTTPException):
        return kinds_of_statuses().get(error.status_code, ErrorKind(error.status_code, message=error.detail))
    kinds = kinds_of_errors()
    return next(kinds[base] for base in type(error).__mro__ if base in kinds)


def error_message(error: Exception) -> str:
    message = kind_of(error).message or str(error)
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"


def error_body(error: Exception) -> dict[str, Any]:
    kind = kind_of(error)
    param = kind.param or getattr(error, "param", None)
    return {"error": {"message": error_message(error), "type": kind.type, "param": param, "code": kind.code}}


def speaks_anthropic(scope: Scope) -> bool:
    path: str = scope["path"]
    return path == ANTHROPIC_ROUTES or path.startswith(ANTHROPIC_ROUTES + "/")


def anthropic_error_body(error: Exception, request_id: str) -> dict[str, Any]:
    kind = kind_of(error)
    type = ANTHROPIC_TYPES.get(kind.status, "api_error" if kind.status >= 500 else "invalid_request_error")
    told = {"type": type, "message": error_message(error), "details": kind.code and {"error_code": kind.code}}
    return {"type": "error", "error": told, "request_id": request_id}


def error_response(error: Exception, scope: Scope, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """`scope` of the request that it answers."""
    is_anthropic = speaks_anthropic(scope)
    body = anthropic_error_body(error, scope["state"]["request_id"]) if is_anthropic else error_body(error)
    if scope["path"] == UPDATE_ROUTE:
        body |= {"success": False, "message": error_message(error)}
    return JSONResponse(body, kind_of(error).status, {**(headers or {}), **headers_of(error)})


def headers_of(error: Exception) -> dict[str, str]:
    """What its kind always has, and when to come again where the error itself knows."""
    own = dict(kind_of(error).headers)
    if isinstance(error, TryAgain):
        own["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return own


def invalid_request(error: ValidationError) -> InvalidRequest:
    """The first thing that pydantic found wrong, without what the client sent."""
    first = error.errors(include_url=False, include_input=False)[0]
    names = [*first["loc"], *([first["ctx"]["field"]] if "field" in first.get("ctx", {}) else [])]
    message = first["msg"][:1].lower() + first["msg"][1:]
    return InvalidRequest(".".join(str(name) for name in names) or None, message)


def install_error_handlers(app: FastAPI) -> None:
    for exception in (*kinds_of_errors(), HTTPException):
        app.add_exception_handler(exception, _answer_unforeseen if exception is Exception else _answer)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    return error_response(error, request.scope, error.headers if isinstance(error, HTTPException) else None)


async def _answer_unforeseen(request: Request, error: Exception) -> JSONResponse:
    """Such an exception is answered outside the middleware that adds the request's id."""
    request_id: str = request.state.request_id
    own = {"request-id": request_id} if speaks_anthropic(request.scope) else {}
    return error_response(error, request.scope, {"x-request-id": request_id, **own})
