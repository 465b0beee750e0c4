"""The messages of a chat on the wire, of all roles, and as a chat template reads them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from app.api.schemas.generation import Text
from app.api.schemas.tools import MAX_TOOLS, CalledTool
from app.api.schemas.wire import WireRequest, refusal

MAX_MESSAGES = 4096
MAX_PARTS = 1024
UNREAD_PARTS = frozenset({"audio", "file", "image", "image_url", "input_audio", "input_image", "video", "video_url"})
EXPECTED = 'expected a string, or a list of parts {"type": "text", "text": …}'


class TextPart(WireRequest):
    harmless: ClassVar[frozenset[str]] = frozenset({"cache_control"})

    type: Literal["text"]
    text: Text


class RefusalPart(WireRequest):
    """As OpenAI's assistant may have said."""

    type: Literal["refusal"]
    refusal: Text

    @property
    def text(self) -> str:
        return self.refusal


class IgnoredPart(WireRequest):
    """Of the assistant's earlier turns. Templates drop the reasoning of those, or have it as `reasoning_content`."""

    harmless: ClassVar[frozenset[str]] = frozenset({"thinking", "signature", "data", "cache_control"})

    type: Literal["thinking", "redacted_thinking"]
    text: ClassVar[None] = None


Part = Annotated[TextPart | RefusalPart | IgnoredPart, Field(discriminator="type")]


def _say_what_is_read(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        parts = value if isinstance(value, list) else []
        kinds = {kind for part in parts if isinstance(part, dict) and isinstance(kind := part.get("type"), str)}
        unread = sorted(UNREAD_PARTS & kinds)
        problem = f"parts of type {unread[0]} are not supported; the model reads text" if unread else EXPECTED
        raise PydanticCustomError("expected", "{problem}", {"problem": problem}) from None


Content = Annotated[Text | Annotated[list[Part], Field(max_length=MAX_PARTS)], WrapValidator(_say_what_is_read)]


class ChatMessage(WireRequest):
    """A message as clients write it, or as they got it from an answer and send it back."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {"annotations": ([],), "refusal": ("",), "audio": (), "function_call": ()}
    )

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    reasoning_content: Text | None = Field(None, description="The assistant's; also by the names that others have.")
    reasoning: Text | None = None
    thinking: Text | None = None
    tool_calls: Annotated[list[CalledTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        is_assistant = self.role == "assistant"
        if self.content is None and not (is_assistant and (self.tool_calls or self.told_reasoning)):
            raise refusal("content", f"{EXPECTED}; only an assistant that calls tools needs none")
        if isinstance(self.content, list) and not is_assistant:
            for part in self.content:
                if not isinstance(part, TextPart):
                    raise refusal("content", f"parts of type {part.type} are the assistant's")
        return self

    @model_validator(mode="after")
    def _check_fields_against_the_role(self) -> Self:
        """An empty value is none."""
        for name in ("tool_calls", "reasoning_content", "reasoning", "thinking"):
            if getattr(self, name) and self.role != "assistant":
                raise refusal(name, "only the assistant's messages have it")
        if self.tool_call_id is not None and self.role != "tool":
            raise refusal("tool_call_id", "only a tool's messages have it")
        return self

    @property
    def told_reasoning(self) -> str | None:
        return self.reasoning_content or self.reasoning or self.thinking

    @property
    def text(self) -> str | None:
        """Text parts become lines."""
        if self.content is None or isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if part.text is not None)

    def for_template(self) -> dict[str, Any]:
        """OpenAI's newer word for the system role becomes the one that templates know; what is absent is left out."""
        calls = [call.for_template() for call in self.tool_calls or ()]
        role = "system" if self.role == "developer" else self.role
        message = {
            "role": role,
            "content": self.text or "",
            "name": self.name,
            "reasoning_content": self.told_reasoning,
            "tool_calls": calls or None,
            "tool_call_id": self.tool_call_id,
        }
        return {key: value for key, value in message.items() if value is not None}


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
