"""From another API's body to the one chat path, and back from its refusals to that API's names. Knows no API."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from app.api.errors import InvalidRequest, invalid_request
from app.api.schemas.chat import ChatRequest


def chat_request(fields: Mapping[str, Any]) -> ChatRequest:
    """`fields` in the names of chat completions; None for a field that is not there. Raises InvalidRequest, in those
    names."""
    try:
        return ChatRequest.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        raise invalid_request(error) from None


@contextmanager
def refusing_as(names: Mapping[str, str]) -> Iterator[None]:
    """What the chat path refuses is refused in another API's words. `names`: its fields by chat's. Places within such a
    field are left out, for they were others in the client's body."""
    try:
        yield
    except InvalidRequest as error:
        name = names.get((error.param or "").partition(".")[0])
        if name is None:
            raise
        raise InvalidRequest(name, str(error).removeprefix(f"{error.param}: ")) from None
