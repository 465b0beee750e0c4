"""An answer of POST /v1/responses on the wire: the response, and the items of its output."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from app.api.schemas.chat import ChosenTokenLogprob
from app.api.schemas.wire import WireAnswer

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Status = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(WireAnswer):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: Sequence[Any] = ()
    logprobs: Sequence[ChosenTokenLogprob] = ()


class OutputMessage(WireAnswer):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: ItemStatus
    content: Sequence[OutputText]


class OutputReasoningText(WireAnswer):
    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class OutputReasoning(WireAnswer):
    id: str
    type: Literal["reasoning"] = "reasoning"
    status: ItemStatus
    summary: Sequence[Any] = ()  # all of it is in the content
    content: Sequence[OutputReasoningText]
    encrypted_content: None = None


class OutputFunctionCall(WireAnswer):
    id: str
    type: Literal["function_call"] = "function_call"
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


OutputItem = OutputReasoning | OutputMessage | OutputFunctionCall


class InputTokensDetails(WireAnswer):
    cached_tokens: int = 0  # nothing is shared between requests
    cache_write_tokens: int = 0


class OutputTokensDetails(WireAnswer):
    reasoning_tokens: int


class ResponseUsage(WireAnswer):
    input_tokens: int
    input_tokens_details: InputTokensDetails = InputTokensDetails()
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(WireAnswer):
    reason: Literal["max_output_tokens", "cancelled"]


class ResponseError(WireAnswer):
    code: Literal["server_error"] = "server_error"
    message: str


class ModelResponse(WireAnswer):
    """OpenAI's `response`. What the request asked for stands in it again, with the defaults in force."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    output: Sequence[OutputItem]
    usage: ResponseUsage | None  # none: there is more to come
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None = None
    metadata: Mapping[str, str]
    parallel_tool_calls: bool
    previous_response_id: None = None
    reasoning: Mapping[str, Any]
    background: Literal[False] = False
    store: Literal[False] = False
    temperature: float
    text: Mapping[str, Any]
    tool_choice: Any
    tools: Sequence[Mapping[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
