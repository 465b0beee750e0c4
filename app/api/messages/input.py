"""A body of POST /v1/messages → the chat request that it stands for. Decides how blocks become messages."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any

from app.api.chat.translation import chat_request
from app.api.schemas.anthropic import (
    Block,
    ConversationRequest,
    MessageParam,
    MessagesRequest,
    OutputConfig,
    TextBlock,
    Thinking,
    ThinkingBlock,
    ToolChoiceParam,
    ToolParam,
    ToolResultBlock,
    ToolUseBlock,
)
from app.api.schemas.chat import ChatRequest

# Fields of a chat request, and what they are called here.
NAMES: Mapping[str, str] = MappingProxyType(
    {
        "chat_template_kwargs": "thinking",
        "continue_final_message": "messages",
        "messages": "messages",
        "reasoning_effort": "output_config.effort",
        "response_format": "output_config.format",
        "stop": "stop_sequences",
        "tools": "tools",
        "tool_choice": "tool_choice",
    }
)
TOOL_CHOICES: Mapping[str, str] = MappingProxyType({"auto": "auto", "any": "required", "none": "none"})


def chat_of(body: MessagesRequest) -> ChatRequest:
    """Raises InvalidRequest, in the names of chat completions."""
    return chat_request(
        {
            **_conversation(body),
            "max_tokens": body.max_tokens,
            "stop": body.stop_sequences,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_k": body.top_k,
            "stream": body.stream,
        }
    )


def conversation_of(body: ConversationRequest) -> ChatRequest:
    """The same without what does not change the prompt."""
    return chat_request(_conversation(body))


def _conversation(body: ConversationRequest) -> dict[str, Any]:
    system = [] if body.system is None else [{"role": "system", "content": _parts(body.system)}]
    goes_on = body.messages[-1].role == "assistant"
    return {
        "model": body.model,
        "messages": [*system, *(message for given in body.messages for message in _messages(given))],
        "continue_final_message": goes_on or None,
        "add_generation_prompt": False if goes_on else None,
        "tools": [_tool(tool) for tool in body.tools] if body.tools else None,
        "tool_choice": _tool_choice(body.tool_choice),
        "parallel_tool_calls": _may_call_in_parallel(body.tool_choice),
        "chat_template_kwargs": _thinking(body.thinking),
        "reasoning_effort": body.output_config and body.output_config.effort,
        "response_format": _response_format(body.output_config),
    }


def _messages(message: MessageParam) -> Iterator[dict[str, Any]]:
    """Results of tools are messages of their own there, in their places between the user's words."""
    if message.role == "assistant":
        yield _assistant(message.content)
        return
    for is_result, blocks in groupby(message.content, lambda block: isinstance(block, ToolResultBlock)):
        if is_result:
            yield from (_result(block) for block in blocks if isinstance(block, ToolResultBlock))
        else:
            yield {"role": message.role, "content": _parts(blocks)}


def _assistant(blocks: Sequence[Block]) -> dict[str, Any]:
    reasoning = "\n".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
    fields = {
        "reasoning_content": reasoning or None,
        "content": _parts(blocks) or None,
        "tool_calls": [_call(block) for block in blocks if isinstance(block, ToolUseBlock)] or None,
    }
    return {"role": "assistant"} | {name: value for name, value in fields.items() if value is not None}


def _result(block: ToolResultBlock) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": _parts(block.content or ())}


def _parts(blocks: Iterable[Block]) -> list[dict[str, str]]:
    return [{"type": "text", "text": block.text} for block in blocks if isinstance(block, TextBlock)]


def _call(block: ToolUseBlock) -> dict[str, Any]:
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}


def _tool(tool: ToolParam) -> dict[str, Any]:
    function = tool.model_dump(include={"name", "description", "strict"}, exclude_none=True)
    return {"type": "function", "function": {**function, "parameters": tool.input_schema}}


def _tool_choice(choice: ToolChoiceParam | None) -> Any:
    if choice is None:
        return None
    if choice.type == "tool":
        return {"type": "function", "function": {"name": choice.name}}
    return TOOL_CHOICES[choice.type]


def _may_call_in_parallel(choice: ToolChoiceParam | None) -> bool | None:
    return False if choice is not None and choice.disable_parallel_tool_use else None


def _thinking(thinking: Thinking | None) -> dict[str, bool] | None:
    if thinking is None or thinking.type == "adaptive":
        return None
    return {"enable_thinking": thinking.type == "enabled"}


def _response_format(config: OutputConfig | None) -> dict[str, Any] | None:
    if config is None or config.format is None:
        return None
    return {"type": "json_schema", "json_schema": {"schema": config.format.schema_, "strict": True}}
