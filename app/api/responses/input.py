"""A body of POST /v1/responses → the chat request that it stands for. Decides how items become messages."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from app.api.chat.translation import chat_request
from app.api.schemas.chat import ChatRequest
from app.api.schemas.responses import (
    FunctionCallOutput,
    FunctionTool,
    InputFunctionCall,
    InputItem,
    InputMessage,
    InputReasoning,
    JsonSchema,
    NamedFunction,
    ResponsesRequest,
    TextConfig,
    TextPart,
    ToolChoice,
)

# Fields of a chat request, and what they are called here.
NAMES: Mapping[str, str] = MappingProxyType(
    {
        "max_tokens": "max_output_tokens",
        "messages": "input",
        "reasoning_effort": "reasoning.effort",
        "response_format": "text.format",
        "tools": "tools",
        "tool_choice": "tool_choice",
    }
)


def chat_of(body: ResponsesRequest) -> ChatRequest:
    """Raises InvalidRequest, in the names of chat completions."""
    return chat_request(
        {
            "model": body.model,
            "messages": [*_instructions(body.instructions), *messages_of(body.input)],
            "tools": [_tool(tool) for tool in body.tools] if body.tools else None,
            "tool_choice": _tool_choice(body.tool_choice),
            "parallel_tool_calls": body.parallel_tool_calls,
            "response_format": _response_format(body.text),
            "reasoning_effort": body.reasoning and body.reasoning.effort,
            "max_tokens": body.max_output_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "ignore_eos": body.ignore_eos,
            "logprobs": body.wants_logprobs or None,
            "top_logprobs": body.top_logprobs if body.wants_logprobs else None,
            "stream": body.stream,
        }
    )


def messages_of(items: Iterable[InputItem]) -> list[dict[str, Any]]:
    """Reasoning, text and calls of one turn of the assistant's are items of their own here, and one message there."""
    messages: list[dict[str, Any]] = []
    for item in items:
        match item:
            case InputMessage(role="assistant"):
                _turn_without(messages, "content")["content"] = _parts(item.content)
            case InputMessage():
                messages.append({"role": item.role, "content": _parts(item.content)})
            case InputReasoning() if item.content:
                reasoning = "\n".join(part.text for part in item.content)
                _turn_without(messages, "reasoning_content", "content", "tool_calls")["reasoning_content"] = reasoning
            case InputFunctionCall():
                _turn_without(messages).setdefault("tool_calls", []).append(_call(item))
            case FunctionCallOutput():
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _parts(item.output)})
    return messages


def _turn_without(messages: list[dict[str, Any]], *fields: str) -> dict[str, Any]:
    """The assistant's message that ends the list and has none of these fields; if need be, a new one."""
    if not messages or messages[-1]["role"] != "assistant" or messages[-1].keys() & set(fields):
        messages.append({"role": "assistant"})
    return messages[-1]


def _parts(parts: Sequence[TextPart]) -> list[dict[str, str]]:
    return [{"type": "text", "text": part.text} for part in parts]


def _call(item: InputFunctionCall) -> dict[str, Any]:
    function = {"name": item.name, "arguments": item.arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _instructions(text: str | None) -> list[dict[str, str]]:
    return [] if text is None else [{"role": "system", "content": text}]


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {
        "type": "function",
        "function": tool.model_dump(include={"name", "description", "parameters", "strict"}, exclude_none=True),
    }


def _tool_choice(choice: ToolChoice | None) -> Any:
    if isinstance(choice, NamedFunction):
        return {"type": "function", "function": {"name": choice.name}}
    return choice


def _response_format(text: TextConfig | None) -> dict[str, Any] | None:
    if text is None or text.format is None:
        return None
    if isinstance(text.format, JsonSchema):
        schema = text.format.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
        return {"type": "json_schema", "json_schema": schema}
    return {"type": text.format.type}
