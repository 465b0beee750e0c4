"""What one choice of a chat has said, in the shape of chat completions: a message, or the deltas of one."""

import json
from collections.abc import Sequence

from app.api.chat.deltas import ChatDelta, ChatParser, ToolCallDelta
from app.api.logprobs import TokenTexts, chat_logprobs
from app.api.schemas.chat import AssistantMessage, ChatLogprobs
from app.api.schemas.tools import FunctionCall, ToolCall
from app.engine.request import FinishReason, TokenEvent


class ChatVoice:
    """One choice, of a stream or of a whole answer: a `Voice`."""

    def __init__(self, parser: ChatParser, texts: TokenTexts) -> None:
        self._parser = parser
        self._texts = texts
        self._is_first = True

    def delta(self, text: str, is_last: bool) -> str:
        """The role stands in the first."""
        told = self._tell(text, is_last)
        if not told and not is_last:
            return ""
        is_first, self._is_first = self._is_first, False
        return f'"delta":{{{",".join(_members(told, is_first))}}}'

    def message(self, text: str) -> AssistantMessage:
        """Of all of the text."""
        told = self._tell(text, is_last=True)
        calls = [
            ToolCall(id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments))
            for call in _joined(told.tool_calls)
            if call.id is not None and call.name is not None
        ]
        return AssistantMessage(
            content=told.content or (None if calls else ""),
            reasoning_content=told.reasoning or None,
            tool_calls=calls or None,
        )

    def logprobs(self, events: Sequence[TokenEvent]) -> ChatLogprobs:
        return chat_logprobs(events, self._texts)

    def finish_reason(self, reason: FinishReason) -> str:
        """A call is to be answered, unless it, or what might have come behind it, was cut."""
        return "tool_calls" if reason is FinishReason.STOP and self._parser.has_tool_calls else reason

    def _tell(self, text: str, is_last: bool) -> ChatDelta:
        told = self._parser.push(text)
        if not is_last:
            return told
        rest = self._parser.finish()
        return ChatDelta(
            told.reasoning + rest.reasoning, told.content + rest.content, [*told.tool_calls, *rest.tool_calls]
        )


def _joined(calls: Sequence[ToolCallDelta]) -> list[ToolCallDelta]:
    """One for each call."""
    joined: list[ToolCallDelta] = []
    for call in calls:
        if joined and joined[-1].index == call.index:
            last = joined.pop()
            call = ToolCallDelta(call.index, last.id, last.name, last.arguments + call.arguments)
        joined.append(call)
    return joined


def _members(told: ChatDelta, is_first: bool) -> list[str]:
    members = ['"role":"assistant"'] if is_first else []
    if told.reasoning:
        members.append(f'"reasoning_content":{json.dumps(told.reasoning)}')
    if told.content or (is_first and not told.reasoning):
        members.append(f'"content":{json.dumps(told.content) if told.content or not told.tool_calls else "null"}')
    if told.tool_calls:
        members.append(f'"tool_calls":[{",".join(map(_call, _joined(told.tool_calls)))}]')
    return members


def _call(call: ToolCallDelta) -> str:
    arguments = json.dumps(call.arguments)
    if call.id is None:
        return f'{{"index":{call.index},"function":{{"arguments":{arguments}}}}}'
    function = f'{{"name":{json.dumps(call.name)},"arguments":{arguments}}}'
    return f'{{"index":{call.index},"id":{json.dumps(call.id)},"type":"function","function":{function}}}'
