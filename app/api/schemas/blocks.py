"""What the bodies of /v1/responses and /v1/messages have in common: lists that may be written as a string, and members
told apart by their `type`."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Discriminator, Field
from pydantic_core import PydanticCustomError

CallId = Annotated[str, Field(min_length=1, max_length=256)]


def by_type(expected: str, default: str | None = None) -> Discriminator:
    """Members of a union that `type` tells apart, with one sentence for whatever is none of them. `default`: what a
    member without a type is."""

    def tag(value: Any) -> Any:
        return value.get("type", default) if isinstance(value, dict) else getattr(value, "type", None)

    return Discriminator(tag, "expected", f"expected {expected}")


def text_as_list(expected: str, member: Callable[[str], dict[str, Any]]) -> Callable[[Any], Any]:
    """A string stands for a list with one member, which `member` makes of it."""

    def as_list(value: Any) -> Any:
        if isinstance(value, str):
            return [member(value)]
        if isinstance(value, list):
            return value
        raise PydanticCustomError("expected", "expected {expected}", {"expected": expected})

    return as_list
