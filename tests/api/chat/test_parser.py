"""Text to reasoning, content and tool calls: whatever pieces the text comes in, what is told of it is the same."""

import random
from collections.abc import Iterable, Sequence
from itertools import count, pairwise

import pytest

from app.api.chat.deltas import ChatDelta
from app.api.chat.parser import CallRules, Start, TagParser

NAMES = frozenset({"f", "天气"})
AUTO = CallRules(NAMES)
SINGLE = CallRules(NAMES, is_single=True)
CERTAIN = CallRules(NAMES, is_certain=True)
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "é\\n😀", "b": [1, 2.5, null]}}\n</tool_call>'
ARGUMENTS = '{"a": "é\\n😀", "b": [1, 2.5, null]}'
OTHER = '<tool_call>\n{"name": "天气", "arguments": {}}\n</tool_call>'
Told = tuple[str, str, list[tuple[str, str, str]]]  # reasoning, content, (id, name, arguments) of each call


def fold(deltas: Iterable[ChatDelta]) -> Told:
    """What a client makes of deltas; asserts that a call begins with id and name, and that calls come one by one."""
    reasoning = content = ""
    calls: list[tuple[str, str, str]] = []
    for delta in deltas:
        assert bool(delta) == bool(delta.reasoning or delta.content or delta.tool_calls)
        reasoning += delta.reasoning
        content += delta.content
        for call in delta.tool_calls:
            if call.id is not None:
                assert call.index == len(calls)
                assert call.name is not None
                calls.append((call.id, call.name, ""))
            assert call.index == len(calls) - 1
            calls[-1] = (*calls[-1][:2], calls[-1][2] + call.arguments)
    return reasoning, content, calls


def parse(pieces: Sequence[str], start: Start = Start.ANSWER, rules: CallRules | None = AUTO) -> Told:
    ids = count()
    parser = TagParser(start, rules, lambda: f"id-{next(ids)}")
    deltas = [*map(parser.push, pieces), parser.finish()]
    told = fold(deltas)
    assert parser.has_tool_calls == bool(told[2])
    return told


def cut(text: str, places: Iterable[int]) -> list[str]:
    return [text[begin:end] for begin, end in pairwise([0, *sorted(places), len(text)])]


def call(name: str, arguments: str, number: int = 0) -> tuple[str, str, str]:
    return (f"id-{number}", name, arguments)


# name: text, start, rules, and what is told of it
TEXTS: dict[str, tuple[str, Start, CallRules | None, Told]] = {
    "plain": ("Hé, 世界\n\n😀 a < b\n", Start.ANSWER, AUTO, ("", "Hé, 世界\n\n😀 a < b\n", [])),
    "line breaks first": ("\n\n hi", Start.ANSWER, AUTO, ("", "\n\n hi", [])),
    "nothing": ("", Start.ANSWER, AUTO, ("", "", [])),
    "a line break alone": ("\n", Start.ANSWER, AUTO, ("", "\n", [])),
    "reasoning": ("<think>\nhm\n\nñ\n</think>\n\nYes\n", Start.ANSWER, None, ("hm\n\nñ", "Yes\n", [])),
    "reasoning behind a line break": ("\n<think>hm</think>Yes", Start.ANSWER, None, ("hm", "Yes", [])),
    "reasoning that the prompt opened": (
        "\nhm < </thin\n</think>\nYes",
        Start.REASONING,
        None,
        ("hm < </thin", "Yes", []),
    ),
    "reasoning without an end": ("<think>\nhm\n</thi", Start.ANSWER, None, ("hm\n</thi", "", [])),
    "reasoning of nothing": ("<think>\n\n</think>\n\n  Yes", Start.ANSWER, None, ("", "  Yes", [])),
    "reasoning alone": ("hm\n</think>\n\n", Start.REASONING, AUTO, ("hm", "", [])),
    "the tags in the middle": ("a <think>b</think>", Start.ANSWER, AUTO, ("", "a <think>b</think>", [])),
    "the tags behind reasoning": (
        "<think>a</think>b</think><think>",
        Start.ANSWER,
        AUTO,
        ("a", "b</think><think>", []),
    ),
    "reasoning in a continuation": ("<think>a</think>", Start.CONTENT, AUTO, ("", "<think>a</think>", [])),
    "a continuation": ("\n\n<b", Start.CONTENT, AUTO, ("", "\n\n<b", [])),
    "the beginning of a tag": ("<thinker> and <tool_cal", Start.ANSWER, AUTO, ("", "<thinker> and <tool_cal", [])),
    "a call": (CALL, Start.ANSWER, AUTO, ("", "", [call("f", ARGUMENTS)])),
    "a call that no tools were offered for": (CALL, Start.ANSWER, None, ("", CALL, [])),
    "all": (
        f"<think>\nlet me\n</think>\n\nI look.\n\n{CALL}\n{OTHER}\n",
        Start.ANSWER,
        AUTO,
        ("let me", "I look.", [call("f", ARGUMENTS), call("天气", "{}", 1)]),
    ),
    "text between calls": (
        f"a\n{CALL}\nb\n{OTHER}c",
        Start.ANSWER,
        AUTO,
        ("", "abc", [call("f", ARGUMENTS), call("天气", "{}", 1)]),
    ),
    "a call in reasoning": (f"<think>{OTHER}</think>", Start.ANSWER, AUTO, (OTHER, "", [])),
    "no JSON": (
        "x\n\n<tool_call>{f}</tool_call>\ny",
        Start.ANSWER,
        AUTO,
        ("", "x\n\n<tool_call>{f}</tool_call>\ny", []),
    ),
    "no JSON, then a call": (
        f"<tool_call>f</tool_call>\n{OTHER}",
        Start.ANSWER,
        AUTO,
        ("", "<tool_call>f</tool_call>", [call("天气", "{}")]),
    ),
    "no function that was offered": (
        '<tool_call>{"name": "g"}</tool_call>',
        Start.ANSWER,
        AUTO,
        ("", '<tool_call>{"name": "g"}</tool_call>', []),
    ),
    "cut": ('a\n<tool_call>\n{"name": "f", "arg', Start.ANSWER, AUTO, ("", 'a\n<tool_call>\n{"name": "f", "arg', [])),
    "only the end tag is missing": ('<tool_call>{"name": "f"}', Start.ANSWER, AUTO, ("", "", [call("f", "{}")])),
    "the end tag in a string": (
        '<tool_call>{"name": "f", "arguments": {"a": "\\"</tool_call>"}}</tool_call>!',
        Start.ANSWER,
        AUTO,
        ("", "!", [call("f", '{"a": "\\"</tool_call>"}')]),
    ),
    "a string without an end": (
        '<tool_call>{"name": "f</tool_call> x',
        Start.ANSWER,
        AUTO,
        ("", '<tool_call>{"name": "f</tool_call> x', []),
    ),
    "one call at most": (f"a\n{OTHER}\n{CALL} b", Start.ANSWER, SINGLE, ("", "a", [call("天气", "{}")])),
    "certain": (f"\n{CALL}\n{OTHER}", Start.ANSWER, CERTAIN, ("", "", [call("f", ARGUMENTS), call("天气", "{}", 1)])),
    "certain, with the end of arguments in them": (
        '<tool_call>\n{"name": "f", "arguments": {"a": "}\\n</tool_call>", "b": {}}}\n</tool_call>',
        Start.ANSWER,
        CERTAIN,
        ("", "", [call("f", '{"a": "}\\n</tool_call>", "b": {}}')]),
    ),
    "certain and cut": (CALL[:-20], Start.ANSWER, CERTAIN, ("", "", [call("f", ARGUMENTS[:-6])])),
    "certain and cut behind its arguments": (CALL[:-14], Start.ANSWER, CERTAIN, ("", "", [call("f", ARGUMENTS)])),
    "certain and cut before its tag": (CALL[:-13], Start.ANSWER, CERTAIN, ("", "", [call("f", ARGUMENTS)])),
    "certain and cut in its tag": (CALL[:-3], Start.ANSWER, CERTAIN, ("", "", [call("f", ARGUMENTS)])),
    "certain and cut early": (CALL[:20], Start.ANSWER, CERTAIN, ("", CALL[:20], [])),
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_told_of_a_text(name):
    text, start, rules, told = TEXTS[name]

    assert parse([text], start, rules) == told


@pytest.mark.parametrize("name", TEXTS)
def test_300_ways_to_cut_a_text_tell_the_same(name):
    text, start, rules, told = TEXTS[name]
    random_places = random.Random(name)

    assert parse(list(text), start, rules) == told
    for _ in range(300):
        places = random_places.choices(range(len(text) + 1), k=random_places.randint(0, 12))
        pieces = cut(text, places)
        assert parse(pieces, start, rules) == told, pieces


@pytest.mark.parametrize("start", Start)
@pytest.mark.parametrize("rules", [None, AUTO, SINGLE, CERTAIN])
def test_texts_made_of_tags_at_random_are_told_the_same_however_they_are_cut(start, rules):
    words = [
        "\n",
        "a",
        "é",
        " ",
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<",
        '"',
        "}",
        "{}",
        CALL,
        OTHER,
    ]
    of_words = random.Random(5)

    for _ in range(300):
        text = "".join(of_words.choices(words, k=of_words.randint(0, 9)))
        whole = parse([text], start, rules)
        for _ in range(4):
            assert parse(cut(text, of_words.choices(range(len(text) + 1), k=5)), start, rules) == whole, text


def test_content_is_told_as_soon_as_it_is_known_to_be_content():
    parser = TagParser(calls=AUTO)

    assert [parser.push(piece).content for piece in ("<th", "at's", " a <", "b>", "\n", "c")] == [
        "",
        "<that's",
        " a ",
        "<b>",
        "",
        "\nc",
    ]


def test_without_tools_line_breaks_are_not_held_back():
    parser = TagParser()

    assert [parser.push(piece).content for piece in ("a", "\n", "<tool_", "\n")] == ["a", "\n", "<tool_", "\n"]


def test_certain_arguments_are_told_as_they_come():
    parser = TagParser(calls=CERTAIN)
    head, rest = '<tool_call>\n{"name": "f", "arguments": ', '{"a": {"b": 1}}}\n</tool_call>'

    (begun,) = parser.push(head).tool_calls
    assert (begun.index, begun.name, begun.arguments) == (0, "f", "")
    told = [call.arguments for character in rest for call in parser.push(character).tool_calls]
    assert "".join(told) == '{"a": {"b": 1}}'
    assert len(told) > 10


def test_ids_of_calls_differ():
    parsers = [TagParser(calls=AUTO) for _ in range(2)]
    ids = [call.id for parser in parsers for call in parser.push(CALL + OTHER).tool_calls if call.id]

    assert len(set(ids)) == 4
