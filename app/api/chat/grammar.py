"""What an answer has to look like that calls tools, or reasons first, as a grammar in llguidance's Lark form:
`parser` reads what it lets pass. Compiles nothing."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from app.api.chat.parser import CERTAIN_END, END_OF_THINK, TOOL_CALL, Start
from app.api.errors import InvalidRequest
from app.api.schemas.chat import ChatRequest
from app.api.schemas.tools import Function, NamedTool, Tool
from app.engine.grammars.grammar import BadGrammar, Grammar, GrammarKind
from app.engine.grammars.json_schema import json_rule
from app.engine.grammars.lark import lark_of

WITHOUT = r"/(?s:.*)/ & ~/(?s:.*){}(?s:.*)/"  # any text that a tag is not in; up to a tag, it is one token with the tag

ANY_OBJECT: Mapping[str, Any] = MappingProxyType({"type": "object"})


def chat_grammar(body: ChatRequest, start: Start) -> Grammar | None:
    """None where the body's own grammar, or none, holds for the whole answer. Raises InvalidRequest."""
    is_single = body.parallel_tool_calls is False or isinstance(body.tool_choice, NamedTool)  # that one, once
    if body.demanded_tools:
        rules = ["answer: calls", *_only_calls(body, body.demanded_tools, is_single=is_single)]
    elif body.offered_tools and body.grammar is not None:
        rules = ["answer: calls | other", *_only_calls(body, body.offered_tools, is_single=is_single)]
        rules.append(_other(body.grammar))
    elif any(tool.function.strict for tool in body.offered_tools):
        return _lark("answer", _text_with_calls(body, is_single=is_single))
    elif body.grammar is not None and start is Start.REASONING:
        rules = ["answer: other", _other(body.grammar)]
    else:
        return None
    return _lark("thought answer", [*_thought(), *rules]) if start is Start.REASONING else _lark("answer", rules)


def _lark(start: str, rules: Sequence[str]) -> Grammar:
    return Grammar(GrammarKind.LARK, "\n".join([f"start: {start}", *rules]))


def _only_calls(body: ChatRequest, tools: Sequence[Tool], *, is_single: bool) -> list[str]:
    first, next_one = _literal(TOOL_CALL), _literal("\n" + TOOL_CALL)
    calls = f"calls: {first} call" if is_single else f"calls: {first} call ({next_one} call)*"
    return [calls, *_calls(body, tools)]


def _text_with_calls(body: ChatRequest, *, is_single: bool) -> list[str]:
    """Reasoning in it, too."""
    free = WITHOUT.format(TOOL_CALL)
    return [
        "answer: FREE | BEFORE call" if is_single else "answer: (BEFORE call)* FREE",
        f"FREE: {free}",
        f"BEFORE: ({free}) {_literal(TOOL_CALL)}",
        *_calls(body, body.offered_tools, only_strict=True),
    ]


def _calls(body: ChatRequest, tools: Sequence[Tool], *, only_strict: bool = False) -> list[str]:
    """From behind the tag that begins a call to the end of the one that ends it. `only_strict`: what is not strict
    takes any object."""
    rules = {
        f"call_{index}": _call(index, tool.function, ANY_OBJECT if only_strict and not tool.function.strict else None)
        for index, tool in enumerate(body.tools or ())
        if tool in tools
    }
    return [f"call: {' | '.join(rules)}", *(f"{name}: {rule}" for name, rule in rules.items())]


def _call(index: int, function: Function, schema: Mapping[str, Any] | None) -> str:
    head = f'\n{{"name": {_literal(function.name)}, "arguments": '
    try:
        arguments = json_rule(function.schema_of_arguments if schema is None else schema)
    except BadGrammar as error:
        raise InvalidRequest(f"tools.{index}.function.parameters", str(error)) from None
    return f"{_literal(head)} {arguments} {_literal(CERTAIN_END)}"


def _thought() -> list[str]:
    """Reasoning that the prompt has opened, up to the answer."""
    end = END_OF_THINK.replace("/", r"\/")
    return [
        r"thought: THOUGHT LINE_BREAKS",
        f"THOUGHT: ({WITHOUT.format(end)}) {_literal(END_OF_THINK)}",
        r"LINE_BREAKS: /\n*/",
    ]


def _other(grammar: Grammar) -> str:
    """What the body asks for, as a rule among others."""
    if grammar.kind is GrammarKind.LARK:
        raise InvalidRequest("structured_outputs.grammar", "goes neither with tools nor with reasoning first")
    try:
        return lark_of(grammar).replace("start:", "other:", 1)
    except BadGrammar as error:
        raise InvalidRequest("response_format", str(error)) from None


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
