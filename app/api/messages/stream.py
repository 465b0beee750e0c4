"""The events of a streamed message, in Anthropic's words."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from app.api.answers import raise_if_failed
from app.api.chat.blocks import BlockKind, Change, Closed, Grown, Opened, Turn
from app.api.chat.deltas import ChatParser
from app.api.errors import anthropic_error_body
from app.api.messages.answer import MessageAnswer, content_of, stop_reason, stop_sequence
from app.api.server_sent import named_event
from app.engine.request import TokenEvent

# How a block grows: the type of its delta, and the member with the piece.
DELTAS: Mapping[BlockKind, tuple[str, str]] = MappingProxyType(
    {
        BlockKind.REASONING: ("thinking_delta", "thinking"),
        BlockKind.TEXT: ("text_delta", "text"),
        BlockKind.TOOL_CALL: ("input_json_delta", "partial_json"),
    }
)


class MessageWriter:
    """A `Writer`."""

    def __init__(self, answer: MessageAnswer, parser: ChatParser) -> None:
        self.is_finished = False
        self._answer = answer
        self._turn = Turn(parser)
        self._is_begun = False

    def write(self, events: Sequence[TokenEvent]) -> bytes:
        raise_if_failed(events)
        changes = [change for event in events for change in self._turn.push(event)]
        self.is_finished = self._turn.finish_reason is not None
        written = [*self._begin(), *map(_told, changes)] if changes or self.is_finished else []
        if self.is_finished:
            written += self._end()
        return "".join(written).encode()

    def error(self, error: Exception) -> bytes:
        return named_event("error", anthropic_error_body(error, self._answer.request_id)).encode()

    def _begin(self) -> Iterator[str]:
        if not self._is_begun:
            self._is_begun = True
            yield _event("message_start", message=self._answer.begun().model_dump())

    def _end(self) -> Iterator[str]:
        delta = {"stop_reason": stop_reason(self._turn), "stop_sequence": stop_sequence(self._turn)}
        yield _event("message_delta", delta=delta, usage=self._answer.usage(self._turn).model_dump())
        yield _event("message_stop")


def _told(change: Change) -> str:
    match change:
        case Opened(block):
            return _event("content_block_start", index=block.index, content_block=content_of(block).model_dump())
        case Grown(block, piece):
            type, member = DELTAS[block.kind]
            return _event("content_block_delta", index=block.index, delta={"type": type, member: piece})
        case Closed(block):
            return _event("content_block_stop", index=block.index)


def _event(type: str, **members: Any) -> str:
    return named_event(type, {"type": type, **members})
