"""A body of POST /v1/responses on the wire: OpenAI's API, without state, as far as a text model has it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, Tag, model_validator

from app.api.schemas.blocks import CallId, by_type, text_as_list
from app.api.schemas.chat import Effort
from app.api.schemas.chat_messages import MAX_MESSAGES, MAX_PARTS
from app.api.schemas.generation import ModelName, Text
from app.api.schemas.structured import JsonSchemaFormat
from app.api.schemas.tools import MAX_TOOLS, FunctionName
from app.api.schemas.wire import MAX_INT32, WireRequest, expect, refusal

OF_AN_ITEM = frozenset({"id", "status", "phase"})  # what the items of an answer bear, and bring along when sent back
ONLY_TEXT = "this server reads text only, no images or files"


class TextPart(WireRequest):
    harmless: ClassVar[frozenset[str]] = frozenset({"logprobs", "prompt_cache_breakpoint"})
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"annotations": ([],)})

    type: Literal["input_text", "output_text", "text"]
    text: Text


def text_part(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": text}


Parts = Annotated[
    list[Annotated[TextPart, expect(f'a part {{"type": "input_text" or "output_text", "text": …}}: {ONLY_TEXT}')]],
    Field(max_length=MAX_PARTS),
    BeforeValidator(
        text_as_list("a string or a list of parts", text_part), json_schema_input_type=str | list[TextPart]
    ),
]


class InputMessage(WireRequest):
    harmless: ClassVar[frozenset[str]] = OF_AN_ITEM

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Parts


class InputFunctionCall(WireRequest):
    harmless: ClassVar[frozenset[str]] = OF_AN_ITEM
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"caller": ({"type": "direct"},)})

    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: Text


class FunctionCallOutput(WireRequest):
    harmless: ClassVar[frozenset[str]] = OF_AN_ITEM | {"name"}  # of the call with that id

    type: Literal["function_call_output"]
    call_id: CallId
    output: Parts


class ReasoningText(WireRequest):
    type: Literal["reasoning_text"]
    text: Text


class InputReasoning(WireRequest):
    harmless: ClassVar[frozenset[str]] = OF_AN_ITEM | {"summary"}  # the reasoning itself is in the content
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"encrypted_content": ("",)})

    type: Literal["reasoning"]
    content: Annotated[list[ReasoningText], Field(max_length=MAX_PARTS)] | None = None


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[InputFunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[InputReasoning, Tag("reasoning")],
    by_type("an item of type message, function_call, function_call_output or reasoning", default="message"),
]


def user_message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


Items = Annotated[
    list[InputItem],
    Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True),
    BeforeValidator(
        text_as_list("a string or a list of items", user_message), json_schema_input_type=str | list[InputItem]
    ),
]


class FunctionTool(WireRequest):
    """A function of the client's. OpenAI's own tools, which run at OpenAI, are refused by their type."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {"allowed_callers": (["direct"],), "async": (False,), "defer_loading": (False,)}
    )

    type: Literal["function"]
    name: FunctionName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(WireRequest):
    type: Literal["function"]
    name: FunctionName


ToolChoice = Annotated[
    Literal["none", "auto", "required"] | NamedFunction,
    expect('"none", "auto", "required" or {"type": "function", "name": …}'),
]


class PlainText(WireRequest):
    type: Literal["text"] = "text"


class JsonObject(WireRequest):
    type: Literal["json_object"]


class JsonSchema(JsonSchemaFormat):
    type: Literal["json_schema"]


class TextConfig(WireRequest):
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"verbosity": ("medium",)})

    format: (
        Annotated[
            Annotated[PlainText, Tag("text")]
            | Annotated[JsonObject, Tag("json_object")]
            | Annotated[JsonSchema, Tag("json_schema")],
            by_type("a format of type text, json_object or json_schema"),
        ]
        | None
    ) = None


class Reasoning(WireRequest):
    harmless: ClassVar[frozenset[str]] = frozenset({"summary", "generate_summary"})  # all of it is shown
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"context": ("auto",), "mode": ("standard",)})

    effort: Effort | None = None


LOGPROBS = "message.output_text.logprobs"
Include = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",  # reasoning is sent in clear
    "file_search_call.results",  # and further details of what a text model's answers do not have
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class ResponsesRequest(WireRequest):
    harmless: ClassVar[frozenset[str]] = frozenset(
        {
            "max_tool_calls",  # of OpenAI's own tools
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "safety_identifier",
            "service_tier",
            "user",
        }
    )
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {
            "background": (False,),
            "stream_options": ({}, {"include_obfuscation": False}),
            "truncation": ("disabled",),
        }
    )

    model: ModelName | None = Field(None, description="Any name that GET /v1/models lists; none: the model served.")
    input: Items
    instructions: Text | None = Field(None, description="A system message before the input.")
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    include: list[Include] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    max_output_tokens: int | None = Field(None, ge=1, le=MAX_INT32)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    ignore_eos: bool | None = Field(None, description="As for chat completions; load tests send it.")
    metadata: dict[str, str] | None = Field(None, description="Comes back in the answer.")
    stream: bool | None = None
    store: bool | None = Field(None, description="Nothing is stored: true is refused.")
    previous_response_id: str | None = Field(None, description="Nothing is stored: refused.")

    @model_validator(mode="after")
    def _check_nothing_is_to_be_stored(self) -> Self:
        if self.store:
            raise refusal("store", "answers are not stored here; leave the field out, or send false")
        if self.previous_response_id is not None:
            raise refusal("previous_response_id", "answers are not stored here; send the conversation in input")
        if self.top_logprobs and not self.wants_logprobs:
            raise refusal("top_logprobs", f"needs {LOGPROBS} in include")
        return self

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())
