import pytest

from app.api.chat.blocks import BlockKind, Closed, Grown, Opened, Turn
from app.api.chat.deltas import ChatDelta, ToolCallDelta
from app.api.chat.parser import CallRules, TagParser
from app.engine.request import FinishReason, TokenEvent

TEXT = (
    '<think>\nHm, grüße.\n</think>\n\nI look.<tool_call>\n{"name": "look", "arguments": {"at": "世界"}}\n</tool_call>'
)
CALL = '{"at": "世界"}'


class Scripted:
    """Says of each text what the script has for it."""

    has_tool_calls = False

    def __init__(self, *deltas, at_end=None):
        self.deltas = list(deltas)
        self.at_end = at_end or ChatDelta()

    def push(self, text):
        return self.deltas.pop(0)

    def finish(self):
        return self.at_end


def parser():
    return TagParser(calls=CallRules(frozenset({"look"})))


def events_of(text, size=1, reason=FinishReason.STOP):
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    return [*(TokenEvent(0, 1, piece) for piece in pieces), TokenEvent(0, 2, finish_reason=reason)]


def turn_of(events, with_parser=None):
    turn = Turn(with_parser or parser())
    for event in events:
        turn.push(event)
    return turn


def told(turn):
    return [(block.kind, block.text) for block in turn.blocks]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1000])
def test_reasoning_text_and_calls_are_blocks_one_behind_the_other(size):
    turn = turn_of(events_of(TEXT, size))

    assert told(turn) == [
        (BlockKind.REASONING, "Hm, grüße."),
        (BlockKind.TEXT, "I look."),
        (BlockKind.TOOL_CALL, CALL),
    ]
    assert [block.index for block in turn.blocks] == [0, 1, 2]
    assert turn.blocks[2].name == "look"
    assert turn.blocks[2].call_id.startswith("call_")
    assert turn.has_tool_calls
    assert turn.finish_reason is FinishReason.STOP
    assert turn.num_tokens == len(events_of(TEXT, size))


def test_what_changes_adds_up_to_the_blocks():
    turn = Turn(parser())
    changes = [change for event in events_of(TEXT, 3) for change in turn.push(event)]

    grown = ["", "", ""]
    is_open = None
    for change in changes:
        index = change.block.index
        match change:
            case Opened(block):
                assert is_open is None, "a block is closed before the next one is opened"
                assert (block.text, block.is_open) == ("", True)
                is_open = index
            case Grown(_, piece):
                assert is_open == index
                grown[index] += piece
            case Closed():
                assert is_open == index
                is_open = None
    assert is_open is None
    assert grown == [block.text for block in turn.blocks]


def test_what_the_parser_held_back_comes_at_the_end():
    turn = turn_of(events_of("Hello <tool"))

    assert told(turn) == [(BlockKind.TEXT, "Hello <tool")]


def test_two_calls_are_two_blocks():
    first = ChatDelta(tool_calls=[ToolCallDelta(0, "a", "f", "{}"), ToolCallDelta(1, "b", "g")])
    second = ChatDelta(tool_calls=[ToolCallDelta(1, arguments="[")])
    script = Scripted(first, second, ChatDelta(), at_end=ChatDelta(tool_calls=[ToolCallDelta(1, arguments="]")]))
    turn = turn_of(events_of("ab"), script)

    assert [(block.call_id, block.name, block.text) for block in turn.blocks] == [("a", "f", "{}"), ("b", "g", "[]")]


def test_a_call_without_arguments_is_a_block():
    turn = turn_of(events_of(""), Scripted(ChatDelta(tool_calls=[ToolCallDelta(0, "a", "f")])))

    assert [(block.name, block.text, block.is_open) for block in turn.blocks] == [("f", "", False)]


def test_silence_is_no_block():
    turn = turn_of(events_of(""))

    assert turn.blocks == []
    assert turn.num_tokens == 1


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.ABORT])
def test_a_turn_cut_short_cuts_its_last_block_only(reason):
    turn = turn_of(events_of("<think>a</think>b", reason=reason))

    assert [(block.is_open, block.is_cut) for block in turn.blocks] == [(False, False), (False, True)]


def test_reasoning_tokens_are_those_up_to_its_last():
    assert turn_of(events_of("<think>ab</think>cd")).num_reasoning_tokens == len("<think>ab")
    assert turn_of(events_of("cd")).num_reasoning_tokens == 0


def test_a_text_keeps_the_tokens_that_it_consists_of():
    turn = Turn(parser(), keeps_tokens=True)
    events = [
        TokenEvent(0, 1, "<think>"),
        TokenEvent(0, 2, "a"),
        TokenEvent(0, 3, "</think>"),
        TokenEvent(0, 4, ""),  # half a character
        TokenEvent(0, 5, "ü"),
        TokenEvent(0, 6, "<"),  # held back: it might begin a call
        TokenEvent(0, 7, "b"),
        TokenEvent(0, 8, finish_reason=FinishReason.STOP),
    ]
    grown = [change for event in events for change in turn.push(event) if isinstance(change, Grown)]

    assert [event.token_id for event in turn.blocks[1].tokens] == [4, 5, 6, 7]
    assert turn.blocks[0].tokens == []
    assert [[event.token_id for event in change.tokens] for change in grown] == [[], [4, 5], [6, 7]]


def test_no_tokens_are_kept_where_nobody_wants_them():
    assert turn_of(events_of(TEXT)).blocks[1].tokens == []
