"""Grammars of chats: what they let pass is what the parser reads as calls; what the client did not ask for is stuck."""

import json
from typing import Any

import pytest

from app.api.chat.grammar import chat_grammar
from app.api.chat.parser import CallRules, Start, TagParser
from app.api.errors import InvalidRequest
from app.api.schemas.chat import ChatRequest
from app.engine.grammars.constraints import GrammarCompiler, GrammarConstraint
from tests.fakes import BYTES, EOS, allows

USER = {"role": "user", "content": "hi"}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
STRICT = {"type": "function", "function": {"name": "weather", "parameters": CITY, "strict": True}}
CLOCK = {"type": "function", "function": {"name": "clock.now"}}
REQUIRED = {"tools": [WEATHER, CLOCK], "tool_choice": "required"}
NAMED = {"tools": [CLOCK, WEATHER], "tool_choice": {"type": "function", "function": {"name": "weather"}}}
OBJECT = {"response_format": {"type": "json_object"}}
IN_ZURICH = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
SOMEWHERE = '<tool_call>\n{"name": "weather", "arguments": {"town": 1}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "clock.now", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(BYTES, frozenset({EOS}))


def body(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [USER], **fields})


def takes(constraint: GrammarConstraint, text: str) -> bool:
    """All of the text, and its end."""
    for byte in text.encode():
        if not allows(constraint.allowed(), byte):
            return False
        constraint.accept(byte)
    return allows(constraint.allowed(), EOS)


SINGLE = {"parallel_tool_calls": False}
CASES = [
    (REQUIRED, Start.ANSWER, [IN_ZURICH, NOW, f"{NOW}\n{IN_ZURICH}\n{NOW}"], ["", "hi", SOMEWHERE, NOW + NOW]),
    (REQUIRED | SINGLE, Start.ANSWER, [IN_ZURICH, NOW], ["", f"{NOW}\n{NOW}"]),
    (NAMED, Start.ANSWER, [IN_ZURICH], [NOW, SOMEWHERE, "{}", f"{IN_ZURICH}\n{IN_ZURICH}"]),
    (REQUIRED, Start.REASONING, [f"so\n</think>\n\n{NOW}", f"</thin</think>{NOW}"], [NOW, f"so</think>so{NOW}"]),
    ({"tools": [STRICT, CLOCK]}, Start.ANSWER, ["", "hi <t", f"a\n{IN_ZURICH}\nb{NOW}"], [SOMEWHERE, "<tool_call>f"]),
    ({"tools": [STRICT]} | SINGLE, Start.ANSWER, ["", "hi", f"a\n{IN_ZURICH}"], [f"{IN_ZURICH}\n", IN_ZURICH * 2]),
    ({"tools": [STRICT]}, Start.REASONING, [f"hm</think>\n{IN_ZURICH}", "hm"], [f"hm</think>\n{SOMEWHERE}"]),
    ({"tools": [WEATHER]} | OBJECT, Start.ANSWER, ['{"a": [1]}', IN_ZURICH], ["", "hi", "{}" + IN_ZURICH, SOMEWHERE]),
    (OBJECT, Start.REASONING, ['so </think>\n\n{"a": [1]}', "</think>{}"], ['{"a": 1}', "so</think>so"]),
    ({"structured_outputs": {"regex": "a[/b]+"}}, Start.REASONING, ["so</think>\na/b"], ["a/b", "so</think>b"]),
    ({"structured_outputs": {"choice": ["é", "no"]}}, Start.REASONING, ["so</think>\né"], ["so</think>yes"]),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "start", "good", "bad"), CASES)
def test_what_a_chat_s_grammar_takes(fields, start, good, bad, compiler):
    grammar = chat_grammar(body(**fields), start)
    assert grammar is not None
    constraint = compiler.compile(grammar)

    for text in good:
        assert takes(constraint.copy(), text), text
    for text in bad:
        assert not takes(constraint.copy(), text), text


@pytest.mark.parametrize(("fields", "start", "good", "bad"), CASES)
def test_what_a_grammar_takes_the_parser_reads(fields, start, good, bad):
    asked = body(**fields)
    rules = CallRules(frozenset({"weather", "clock.now"}), is_certain=True) if asked.tools else None

    for text in good:
        parser = TagParser(start, rules)
        calls = [call for delta in (*map(parser.push, text), parser.finish()) for call in delta.tool_calls]
        assert [call.name for call in calls if call.name] == [
            json.loads(part.partition("</tool_call>")[0])["name"] for part in text.split("<tool_call>\n")[1:]
        ]


@pytest.mark.parametrize(
    "fields", [{}, OBJECT, {"tools": [WEATHER]}, {"tools": [WEATHER], "tool_choice": "none"} | OBJECT]
)
def test_there_is_no_grammar_of_the_chat_where_the_body_s_is_enough(fields):
    assert chat_grammar(body(**fields), Start.ANSWER) is None


@pytest.mark.parametrize("fields", [{"tools": [WEATHER]}, {}])
def test_a_lark_grammar_goes_with_nothing_else(fields):
    start = Start.ANSWER if fields else Start.REASONING
    with pytest.raises(InvalidRequest, match="grammar"):
        chat_grammar(body(structured_outputs={"grammar": 'start: "a"'}, **fields), start)


def test_parameters_that_cannot_be_followed_are_named():
    odd = {"type": "function", "function": {"name": "odd", "parameters": {"type": "object", "not": {}}}}

    for choice in ("required", {"type": "function", "function": {"name": "odd"}}):
        with pytest.raises(InvalidRequest, match="not") as caught:
            chat_grammar(body(tools=[WEATHER, odd], tool_choice=choice), Start.ANSWER)
        assert caught.value.param == "tools.1.function.parameters"
    assert chat_grammar(body(tools=[STRICT, odd]), Start.ANSWER) is not None
    assert chat_grammar(body(tools=[odd]), Start.ANSWER) is None
