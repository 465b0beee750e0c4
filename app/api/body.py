"""A request's body: read, refused unless it is JSON, parsed strictly, and described in /docs.

FastAPI's own parsing is not used: it takes true and "16" for integers, lets NaN and half surrogate pairs pass, and
answers 422 with the client's input in it.
"""

import gc
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import ValidationError

from app.api.errors import InvalidRequest, UnsupportedContent, invalid_request
from app.api.long_work import LONG_BODY, on_a_thread
from app.api.schemas.wire import WireRequest
from app.api.strict_json import BadJson, read_json

Body = TypeVar("Body", bound=WireRequest)


async def read_body(request: Request, kind: type[Body]) -> Body:
    """Raises UnsupportedContent or InvalidRequest, and what `body_limit.py` does."""
    _require_json(request)
    raw = await request.body()
    if len(raw) <= LONG_BODY:
        return _parse(raw, kind)
    return await on_a_thread(request, _parse_long, raw, kind)


def _parse_long(raw: bytes, kind: type[Body]) -> Body:
    """Python's collector, which hundreds of thousands of new lists set off again and again, would make it several times
    as long, all of it with the interpreter's lock held."""
    gc.disable()
    try:
        return _parse(raw, kind)
    finally:
        gc.enable()


def _parse(raw: bytes, kind: type[Body]) -> Body:
    try:
        read = read_json(raw)
        body = kind.model_validate(read.value)
    except ValidationError as error:
        raise invalid_request(error) from None
    except BadJson as error:
        raise InvalidRequest(None, f"The body {error}.") from None
    if read.has_non_numbers:
        raise InvalidRequest(None, "The body has NaN, an infinity, or a number too large to be one.")
    return body


def add_post(
    router: APIRouter, path: str, handler: Callable[[Request], Any], body: type[WireRequest], **details: Any
) -> None:
    """A route whose handler reads its body with `read_body`. An answer that is a Response by then is described by
    `answer`; other details as FastAPI has them."""
    if answer := details.pop("answer", None):
        details["responses"] = {200: {"model": answer}}
    router.add_api_route(path, handler, methods=["POST"], openapi_extra=_describe_body(path, body), **details)


def _describe_body(path: str, kind: type[WireRequest]) -> dict[str, Any]:
    """The `requestBody` of the operation POST `path`. Definitions stay inside its schema, so references are pointers to
    there."""
    content = f"#/paths/{path.replace('/', '~1')}/post/requestBody/content/application~1json/schema"
    schema = kind.model_json_schema(ref_template=content + "/$defs/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _require_json(request: Request) -> None:
    """A body of another type is refused even where it would parse: a foreign web page can send text/plain across
    origins without asking, but not JSON."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedContent("The body must be JSON, with the header Content-Type: application/json.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedContent("The body must not be compressed; leave the header Content-Encoding out.")
