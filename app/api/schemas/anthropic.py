"""POST /v1/messages and /v1/messages/count_tokens on the wire: Anthropic's API, as far as a text model has it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, Tag, model_validator

from app.api.schemas.blocks import CallId, by_type, text_as_list
from app.api.schemas.chat_messages import MAX_MESSAGES, MAX_PARTS
from app.api.schemas.generation import MAX_STOPS, ModelName, StopString, Text
from app.api.schemas.tools import MAX_TOOLS, FunctionName
from app.api.schemas.wire import MAX_INT32, WireAnswer, WireRequest, expect, refusal

CACHED = frozenset({"cache_control"})  # nothing is shared between requests, so there is nothing to control
ONLY_TEXT = "this server reads text only, no images or documents"


class TextBlock(WireRequest):
    harmless: ClassVar[frozenset[str]] = CACHED
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"citations": ([],)})

    type: Literal["text"]
    text: Text


class ThinkingBlock(WireRequest):
    harmless: ClassVar[frozenset[str]] = CACHED | {"signature"}  # this server signs nothing and believes its clients

    type: Literal["thinking"]
    thinking: Text


class ToolUseBlock(WireRequest):
    harmless: ClassVar[frozenset[str]] = CACHED
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"caller": ({"type": "direct"},)})

    type: Literal["tool_use"]
    id: CallId
    name: FunctionName
    input: dict[str, Any]


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


Texts = Annotated[
    list[Annotated[TextBlock, expect(f'a block {{"type": "text", "text": …}}: {ONLY_TEXT}')]],
    Field(max_length=MAX_PARTS),
    BeforeValidator(
        text_as_list("a string or a list of blocks", text_block), json_schema_input_type=str | list[TextBlock]
    ),
]


class ToolResultBlock(WireRequest):
    harmless: ClassVar[frozenset[str]] = CACHED | {"is_error"}  # no template has a place for it: the content says so

    type: Literal["tool_result"]
    tool_use_id: CallId
    content: Texts | None = None


Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ToolResultBlock, Tag("tool_result")],
    by_type(f"a block of type text, thinking, tool_use or tool_result: {ONLY_TEXT}"),
]
Blocks = Annotated[
    list[Block],
    Field(max_length=MAX_PARTS),
    BeforeValidator(text_as_list("a string or a list of blocks", text_block), json_schema_input_type=str | list[Block]),
]
SPEAKERS = MappingProxyType({"thinking": "assistant", "tool_use": "assistant", "tool_result": "user"})


class MessageParam(WireRequest):
    role: Literal["user", "assistant", "system"]
    content: Blocks

    @model_validator(mode="after")
    def _check_who_speaks(self) -> Self:
        for block in self.content:
            speaker = SPEAKERS.get(block.type, self.role)
            if speaker != self.role:
                raise refusal("content", f"blocks of type {block.type} belong in messages of the {speaker}")
        return self


class ToolParam(WireRequest):
    """A tool of the client's. Anthropic's own, which run at Anthropic, are refused by their type."""

    harmless: ClassVar[frozenset[str]] = CACHED | {"eager_input_streaming"}  # input is always streamed as it comes
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {"allowed_callers": (["direct"],), "defer_loading": (False,), "input_examples": ([],)}
    )

    type: Literal["custom"] | None = None
    name: FunctionName
    description: Text | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class ToolChoiceParam(WireRequest):
    type: Literal["auto", "any", "tool", "none"]
    name: FunctionName | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if (self.type == "tool") != (self.name is not None):
            raise refusal("name", "is needed with the type tool, and only there")
        return self


class Thinking(WireRequest):
    harmless: ClassVar[frozenset[str]] = frozenset({"budget_tokens"})  # a target only; max_tokens is kept
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"display": ("summarized",)})

    type: Literal["enabled", "adaptive", "disabled"] = Field(description="adaptive: as the model's template has it.")


class JsonFormat(WireRequest):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(WireRequest):
    format: JsonFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class ConversationRequest(WireRequest):
    """What is counted: all that the prompt is made from."""

    harmless: ClassVar[frozenset[str]] = CACHED | {"metadata", "service_tier"}
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"mcp_servers": ([],), "speed": ("standard",)})

    model: ModelName | None = Field(None, description="Any name that GET /v1/models lists; none: the model served.")
    messages: Annotated[list[MessageParam], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)] = Field(
        description="Where the last is the assistant's, the answer goes on from its text."
    )
    system: Texts | None = None
    tools: Annotated[list[ToolParam], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(ConversationRequest):
    max_tokens: int = Field(ge=1, le=MAX_INT32)
    stop_sequences: Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=MAX_INT32, description="0: no limit.")
    stream: bool | None = None
    thread: dict[str, Any] | None = Field(None, description="Conversations are not held here: refused.")


class TextContent(WireAnswer):
    type: Literal["text"] = "text"
    text: str


class ThinkingContent(WireAnswer):
    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str = ""


class ToolUseContent(WireAnswer):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]


Content = TextContent | ThinkingContent | ToolUseContent


class OutputTokensDetails(WireAnswer):
    thinking_tokens: int


class MessageUsage(WireAnswer):
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0  # nothing is shared between requests
    cache_read_input_tokens: int = 0
    output_tokens_details: OutputTokensDetails


StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class Message(WireAnswer):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Content]
    stop_reason: StopReason | None  # none: there is more to come
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(WireAnswer):
    input_tokens: int
