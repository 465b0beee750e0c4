"""What one choice of a chat has said, in the three kinds that every chat API tells apart: reasoning, content, tool
calls. How they are found in the text is decided in the parser, how they look on the wire by each API."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """The beginning of a tool call, with id and name, or more of its arguments."""

    index: int  # which call of the choice
    id: str | None = None
    name: str | None = None
    arguments: str = ""  # a piece of a JSON text


@dataclass(frozen=True, slots=True)
class ChatDelta:
    reasoning: str = ""
    content: str = ""
    tool_calls: Sequence[ToolCallDelta] = ()

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.content or self.tool_calls)


class ChatParser(Protocol):
    """Of one choice. All deltas together are the same however the text was cut."""

    @property
    def has_tool_calls(self) -> bool: ...

    def push(self, text: str) -> ChatDelta:
        """What `text` adds; it may hold some of it back until it knows what it is."""

    def finish(self) -> ChatDelta:
        """What was held back. Nothing is pushed afterwards."""
