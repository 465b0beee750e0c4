"""The message that POST /v1/messages answers with, and its content, from the blocks of a chat's turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from app.api.answers import AnswerPlan
from app.api.chat.blocks import Block, BlockKind, Turn
from app.api.chat.deltas import ChatParser
from app.api.schemas.anthropic import (
    Content,
    Message,
    MessageUsage,
    OutputTokensDetails,
    StopReason,
    TextContent,
    ThinkingContent,
    ToolUseContent,
)
from app.engine.request import FinishReason, TokenEvent


@dataclass(frozen=True, slots=True)
class MessageAnswer:
    request_id: str
    plan: AnswerPlan

    def begun(self) -> Message:
        return self._message([], None, None, self._usage(0, 0))

    def render(self, parser: ChatParser, events: Sequence[TokenEvent]) -> Message:
        """The whole answer."""
        turn = Turn(parser)
        for event in events:
            turn.push(event)
        content = [content_of(block) for block in turn.blocks]
        return self._message(content, stop_reason(turn), stop_sequence(turn), self.usage(turn))

    def usage(self, turn: Turn) -> MessageUsage:
        return self._usage(turn.num_tokens, turn.num_reasoning_tokens)

    def _message(
        self, content: list[Content], reason: StopReason | None, sequence: str | None, usage: MessageUsage
    ) -> Message:
        return Message(
            id=f"msg_{self.request_id}",
            model=self.plan.model,
            content=content,
            stop_reason=reason,
            stop_sequence=sequence,
            usage=usage,
        )

    def _usage(self, num_tokens: int, num_thinking_tokens: int) -> MessageUsage:
        return MessageUsage(
            input_tokens=self.plan.num_prompt_tokens,
            output_tokens=num_tokens,
            output_tokens_details=OutputTokensDetails(thinking_tokens=num_thinking_tokens),
        )


def content_of(block: Block) -> Content:
    if block.kind is BlockKind.TOOL_CALL:
        return ToolUseContent(id=block.call_id, name=block.name, input=_input(block.text))
    if block.kind is BlockKind.REASONING:
        return ThinkingContent(thinking=block.text)
    return TextContent(text=block.text)


def stop_reason(turn: Turn) -> StopReason | None:
    """What was cut short, whether by its limit or by a cancel, has no other word in this API than max_tokens."""
    if turn.finish_reason is None:
        return None
    if turn.finish_reason is not FinishReason.STOP:
        return "max_tokens"
    if turn.has_tool_calls:
        return "tool_use"
    return "end_turn" if stop_sequence(turn) is None else "stop_sequence"


def stop_sequence(turn: Turn) -> str | None:
    return turn.stop_reason if isinstance(turn.stop_reason, str) else None


def _input(arguments: str) -> dict[str, Any]:
    """Of arguments that were cut off, what is complete: so do Anthropic's clients read a stream that ends there."""
    value = from_json(arguments, allow_partial=True) if arguments else {}
    return value if isinstance(value, dict) else {}
