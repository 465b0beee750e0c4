"""Functions that the model may ask the client to call, on the wire of a chat."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from app.api.schemas.wire import WireAnswer, WireRequest, expect

MAX_TOOLS = 128
MAX_NAME = 128
MAX_ARGUMENTS = 1024 * 1024  # characters
NOTHING = MappingProxyType({"type": "object", "properties": {}, "additionalProperties": False})

FunctionName = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME, pattern=r"^[\w.:/-]+$", description="Letters, digits, _ . : / -")
]


class Function(WireRequest):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="A JSON schema of an object; none: no parameters.")
    strict: bool | None = Field(None, description="true: arguments always follow the schema, also of tool_choice auto.")

    @property
    def schema_of_arguments(self) -> Mapping[str, Any]:
        if self.parameters is None:
            return NOTHING
        return self.parameters or {"type": "object"}


class Tool(WireRequest):
    harmless: ClassVar[frozenset[str]] = frozenset({"cache_control"})

    type: Literal["function"]
    function: Function

    def for_template(self) -> dict[str, Any]:
        """What is sent is shown, `strict` apart, which is for the server to keep."""
        shown = self.function.model_dump(exclude_unset=True, exclude={"strict"})
        return {"type": "function", "function": shown}


class NamedFunction(WireRequest):
    name: FunctionName


class NamedTool(WireRequest):
    type: Literal["function"]
    function: NamedFunction


ToolChoice = Annotated[
    Literal["none", "auto", "required"] | NamedTool,
    expect('"none", "auto", "required", or {"type": "function", "function": {"name": …}}'),
]


class CalledFunction(WireRequest):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: Annotated[
        Annotated[str, Field(max_length=MAX_ARGUMENTS)] | dict[str, Any], expect("a JSON text, or an object")
    ]


class CalledTool(WireRequest):
    """In a message of the assistant's, as the client got it and sends it back."""

    harmless: ClassVar[frozenset[str]] = frozenset({"index"})

    id: Annotated[str, Field(max_length=256)] | None = None
    type: Literal["function"] = "function"
    function: CalledFunction

    def for_template(self) -> dict[str, Any]:
        shown = {"id": self.id, "type": self.type, "function": self.function.model_dump()}
        return {key: value for key, value in shown.items() if value is not None}


class FunctionCall(WireAnswer):
    name: str
    arguments: str  # a JSON text


class ToolCall(WireAnswer):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
