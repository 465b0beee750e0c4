"""The text of an answer → reasoning, content and tool calls, by the tags that Qwen, Hermes and MiniMind models write.

    <think>                                  at the beginning, or opened by the prompt
    …
    </think>

    content
    <tool_call>
    {"name": "f", "arguments": {…}}
    </tool_call>

Line breaks beside a tag belong to the tag: templates write them there. Nothing else is lost: what looks like a call and
is none, because it is no JSON, or names no function that the client gave, or was cut, stays content with its tags.
A tag that is one token in MiniMind-3's vocabulary is several in MiniMind2's: its text tells it in either.
"""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from app.api.chat.deltas import ChatDelta, ToolCallDelta
from app.api.chat.tool_calls import JsonStrings, is_json, read_call

THINK, END_OF_THINK = "<think>", "</think>"
TOOL_CALL, END_OF_TOOL_CALL = "<tool_call>", "</tool_call>"
CERTAIN_HEAD = re.compile(r'\n\{"name": "([^"]+)", "arguments": ')  # as tool grammars have it …
CERTAIN_END = "}\n" + END_OF_TOOL_CALL  # … which is in no JSON text: line breaks in strings are written \n


class Start(Enum):
    """Where in an answer the text begins."""

    ANSWER = auto()
    REASONING = auto()  # the prompt has opened it
    CONTENT = auto()  # the prompt has some of it


@dataclass(frozen=True, slots=True)
class CallRules:
    """How tool calls are read."""

    names: frozenset[str]  # of functions that may be called
    is_single: bool = False  # the first call ends the answer: what is said behind it is not shown
    is_certain: bool = False  # a grammar has it that calls are well-formed: their arguments are told as they come


class _Mode(Enum):
    START = auto()
    REASONING = auto()
    CONTENT = auto()
    CALL = auto()
    ARGUMENTS = auto()
    OVER = auto()


@dataclass(slots=True)
class _Told:
    """A delta in the making."""

    reasoning: str = ""
    content: str = ""
    calls: list[ToolCallDelta] = field(default_factory=list)

    def arguments(self, index: int, piece: str) -> None:
        if piece:
            self.calls.append(ToolCallDelta(index, arguments=piece))

    def delta(self) -> ChatDelta:
        return ChatDelta(self.reasoning, self.content, self.calls)


class TagParser:
    """A `ChatParser`."""

    def __init__(
        self,
        start: Start = Start.ANSWER,
        calls: CallRules | None = None,
        new_id: Callable[[], str] = lambda: f"call_{secrets.token_hex(12)}",
    ) -> None:
        """`calls` None: tool calls are content like all else."""
        modes = {Start.ANSWER: _Mode.START, Start.REASONING: _Mode.REASONING, Start.CONTENT: _Mode.CONTENT}
        self._mode = modes[start]
        self._calls = calls
        self._new_id = new_id
        self._text = ""  # not told yet
        self._is_behind_tag = start is Start.REASONING  # so that line breaks are the tag's
        self._before_call = ""  # what to tell before a call that turns out to be none
        self._num_searched = 0  # characters of a call in which its end is not …
        self._strings = JsonStrings()  # … unless in a string
        self._arguments_so_far = ""  # of a call whose arguments are told as they come
        self._num_calls = 0

    @property
    def has_tool_calls(self) -> bool:
        return self._num_calls > 0

    def push(self, text: str) -> ChatDelta:
        if self._mode is _Mode.CONTENT and self._calls is None and not self._is_behind_tag:
            return ChatDelta(content=text)
        self._text += text
        return self._advance(is_end=False)

    def finish(self) -> ChatDelta:
        return self._advance(is_end=True)

    def _advance(self, *, is_end: bool) -> ChatDelta:
        told = _Told()
        while self._step(told, is_end):
            pass
        return told.delta()

    def _step(self, told: _Told, is_end: bool) -> bool:
        """Tells what can be told of the text, and says whether the mode has changed, so that another may go on."""
        match self._mode:
            case _Mode.START:
                return self._start(is_end)
            case _Mode.REASONING:
                return self._reasoning(told, is_end)
            case _Mode.CONTENT:
                return self._content(told, is_end)
            case _Mode.CALL:
                return self._call(told, is_end)
            case _Mode.ARGUMENTS:
                return self._arguments(told, is_end)
            case _Mode.OVER:
                self._text = ""
                return False

    def _start(self, is_end: bool) -> bool:
        text = self._text.lstrip("\n")
        if text.startswith(THINK):
            self._enter(_Mode.REASONING, text[len(THINK) :])
            return True
        if THINK.startswith(text) and not is_end:
            return False
        self._mode = _Mode.CONTENT
        return True

    def _reasoning(self, told: _Told, is_end: bool) -> bool:
        before, found = self._until(END_OF_THINK, is_end)
        told.reasoning += before
        if found:
            self._enter(_Mode.CONTENT, self._text.lstrip("\n")[len(END_OF_THINK) :])
        return found

    def _content(self, told: _Told, is_end: bool) -> bool:
        if self._calls is None:
            self._drop_line_breaks()
            told.content += self._text
            self._text = ""
            return False
        before, found = self._until(TOOL_CALL, is_end)
        told.content += before
        if found:
            line_breaks, _, behind = self._text.partition(TOOL_CALL)
            self._before_call = line_breaks + TOOL_CALL
            self._num_searched, self._strings = 0, JsonStrings()
            self._mode, self._text = _Mode.CALL, behind
        return found

    def _call(self, told: _Told, is_end: bool) -> bool:
        assert self._calls is not None
        if self._calls.is_certain and (head := CERTAIN_HEAD.match(self._text)):
            self._tell_call(told, head[1])
            self._arguments_so_far = ""
            self._mode, self._text = _Mode.ARGUMENTS, self._text[head.end() :]
            return True
        end = self._text.find(END_OF_TOOL_CALL, self._num_searched)
        if end >= 0 and self._strings.end_in(self._text[:end]):
            self._num_searched = end + 1
            return True
        if end < 0 and not is_end:
            self._num_searched = max(len(self._text) - len(END_OF_TOOL_CALL) + 1, self._num_searched)
            return False
        self._end_call(told, self._text if end < 0 else self._text[:end])
        return True

    def _end_call(self, told: _Told, said: str) -> None:
        assert self._calls is not None
        call = read_call(said)
        behind = self._text[len(said) :].removeprefix(END_OF_TOOL_CALL)
        if call is not None and call.name in self._calls.names:
            self._tell_call(told, call.name, call.arguments)
            self._leave_call(behind)
        else:
            told.content += self._before_call + self._text[: len(self._text) - len(behind)]
            self._mode, self._text = _Mode.CONTENT, behind

    def _arguments(self, told: _Told, is_end: bool) -> bool:
        end = self._text.find(CERTAIN_END)
        if end >= 0:
            told.arguments(self._num_calls - 1, self._text[:end])
            self._leave_call(self._text[end + len(CERTAIN_END) :])
            return True
        num_held = _num_held(self._text, CERTAIN_END)
        sure, held = self._text[: len(self._text) - num_held], self._text[len(self._text) - num_held :]
        self._arguments_so_far += sure
        if is_end and not is_json(self._arguments_so_far):
            sure, held = sure + held, ""
        told.arguments(self._num_calls - 1, sure)
        self._text = held
        return False

    def _enter(self, mode: _Mode, text: str) -> None:
        self._mode, self._text, self._is_behind_tag = mode, text, True

    def _leave_call(self, text: str) -> None:
        assert self._calls is not None
        self._enter(_Mode.OVER if self._calls.is_single else _Mode.CONTENT, text)

    def _tell_call(self, told: _Told, name: str, arguments: str = "") -> None:
        told.calls.append(ToolCallDelta(self._num_calls, self._new_id(), name))
        told.arguments(self._num_calls, arguments)
        self._num_calls += 1

    def _drop_line_breaks(self) -> None:
        if self._is_behind_tag:
            self._text = self._text.lstrip("\n")
            self._is_behind_tag = not self._text

    def _until(self, tag: str, is_end: bool) -> tuple[str, bool]:
        """Takes the text before `tag` and the line breaks in front of it; where the tag is not there, the text that is
        surely before it, or at the end all of it."""
        self._drop_line_breaks()
        position = self._text.find(tag)
        if position < 0:
            position = len(self._text) - _num_held(self._text, tag)
        before = self._text[:position].rstrip("\n")
        found = self._text.startswith(tag, position)
        if is_end and not found:
            before = self._text
        self._text = self._text[len(before) :]
        return before, found


def _num_held(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    lengths = range(min(len(text), len(tag) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(tag[:length])), 0)
