"""One choice of a chat, laid out as OpenAI's responses and Anthropic's messages have it: blocks of reasoning, of text,
and tool calls, one behind the other. How a block looks on the wire is for either API to say."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from app.api.chat.deltas import ChatDelta, ChatParser, ToolCallDelta
from app.engine.request import FinishReason, TokenEvent


class BlockKind(Enum):
    REASONING = auto()
    TEXT = auto()
    TOOL_CALL = auto()


@dataclass(slots=True)
class Block:
    index: int
    kind: BlockKind
    call_id: str = ""  # of a tool call …
    name: str = ""
    text: str = ""  # … whose arguments these are
    tokens: list[TokenEvent] = field(default_factory=list)  # of a text, where they are kept
    is_open: bool = True
    is_cut: bool = False  # the turn ended within it, before its time


@dataclass(frozen=True, slots=True)
class Opened:
    block: Block  # as it is then, empty


@dataclass(frozen=True, slots=True)
class Grown:
    block: Block
    piece: str
    tokens: Sequence[TokenEvent] = ()  # that the piece consists of: of a text, where they are kept


@dataclass(frozen=True, slots=True)
class Closed:
    block: Block


Change = Opened | Grown | Closed


class Turn:
    """The assistant's turn as far as it has come. A block is closed before the next one is opened.

    The parser is given one event's text at a time, however many have arrived, so that the blocks of an answer are the
    same whether it is streamed or not."""

    def __init__(self, parser: ChatParser, *, keeps_tokens: bool = False) -> None:
        self.blocks: list[Block] = []
        self.num_tokens = 0
        self.num_reasoning_tokens = 0  # up to the last one that brought reasoning
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self._parser = parser
        self._keeps_tokens = keeps_tokens
        self._unread: list[TokenEvent] = []  # with tokens, behind the last piece of any block

    @property
    def has_tool_calls(self) -> bool:
        return any(block.kind is BlockKind.TOOL_CALL for block in self.blocks)

    def push(self, event: TokenEvent) -> list[Change]:
        """What the next event does to the blocks; the last one closes what is open."""
        self.num_tokens += event.token_id is not None
        if self._keeps_tokens and event.token_id is not None:
            self._unread.append(event)
        changes = list(self._append(self._parser.push(event.text)))
        if event.finish_reason is not None:
            self.finish_reason, self.stop_reason = event.finish_reason, event.stop_reason
            changes += self._append(self._parser.finish())
            changes += self._close(is_cut=event.finish_reason is not FinishReason.STOP)
        return changes

    def _append(self, delta: ChatDelta) -> Iterator[Change]:
        if delta.reasoning:
            self.num_reasoning_tokens = self.num_tokens
            yield from self._grow(BlockKind.REASONING, delta.reasoning)
        if delta.content:
            yield from self._grow(BlockKind.TEXT, delta.content)
        for call in delta.tool_calls:
            yield from self._append_call(call)

    def _append_call(self, call: ToolCallDelta) -> Iterator[Change]:
        if call.id is not None:
            assert call.name is not None, "a call begins with id and name"
            yield from self._open(BlockKind.TOOL_CALL, call.id, call.name)
        if call.arguments:
            yield from self._grow(BlockKind.TOOL_CALL, call.arguments)

    def _grow(self, kind: BlockKind, piece: str) -> Iterator[Change]:
        if not self.blocks or not self.blocks[-1].is_open or self.blocks[-1].kind is not kind:
            assert kind is not BlockKind.TOOL_CALL, "a call's arguments follow its beginning"
            yield from self._open(kind)
        block = self.blocks[-1]
        tokens = tail(self._unread, piece) if kind is BlockKind.TEXT else []
        self._unread.clear()
        block.text += piece
        block.tokens += tokens
        yield Grown(block, piece, tokens)

    def _open(self, kind: BlockKind, call_id: str = "", name: str = "") -> Iterator[Change]:
        yield from self._close()
        block = Block(len(self.blocks), kind, call_id, name)
        self.blocks.append(block)
        yield Opened(replace(block, tokens=[]))

    def _close(self, *, is_cut: bool = False) -> Iterator[Change]:
        if self.blocks and self.blocks[-1].is_open:
            block = self.blocks[-1]
            block.is_open, block.is_cut = False, is_cut
            yield Closed(block)


def tail(tokens: Sequence[TokenEvent], piece: str) -> list[TokenEvent]:
    """The last of them, as many as `piece` consists of: what the parser kept to itself stands before it."""
    missing = len(piece)
    start = len(tokens)
    while start and (missing > 0 or not tokens[start - 1].text):  # half a character has no text of its own
        start -= 1
        missing -= len(tokens[start].text)
    return list(tokens[start:])
