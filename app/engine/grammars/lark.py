"""Every grammar in one form, llguidance's variant of Lark, and the library's words on such a text in a client's terms.
Compiles nothing."""

import json
import re
from collections.abc import Mapping
from typing import Any

from llguidance import regex_to_lark

from app.engine.grammars.grammar import MAX_GRAMMAR, BadGrammar, Grammar, GrammarKind
from app.engine.grammars.json_schema import json_rule

# Where a grammar leaves no choice of bytes, the model still chooses the tokens for them: it knows best which it would.
NO_FORCING = '\n%llguidance {"no_forcing": true}\n'

MAX_PROBLEM = 200  # characters of the library's words that are told
OUR_LINE = re.compile(r"at 1\(\d+\): (failed to compile JSON schema: )?")
ONE_OF = "coerce_one_of"  # an option that its words advise, and that would only hide the problem
NOT_EXCLUSIVE = "oneOf is supported where its schemas clearly exclude each other; anyOf needs no such thing"


def checked_lark(grammar: Grammar) -> str:
    """Raises BadGrammar for what need not be compiled to be refused."""
    try:
        lark = lark_of(grammar) + NO_FORCING
        num_bytes = max(len(grammar.source.encode()), len(lark.encode()))
    except RecursionError:
        raise BadGrammar("", "is nested too deeply") from None
    except UnicodeEncodeError:
        raise BadGrammar("", "has half of a surrogate pair") from None
    if num_bytes > MAX_GRAMMAR:
        raise BadGrammar("", f"has {num_bytes} bytes; at most {MAX_GRAMMAR} are compiled")
    return lark


def lark_of(grammar: Grammar) -> str:
    """Its rule `start`, and those that it needs. Raises BadGrammar for a schema that is none."""
    match grammar.kind:
        case GrammarKind.JSON_OBJECT:
            return f"start: {json_rule({'type': 'object'})}"
        case GrammarKind.JSON_SCHEMA:
            return f"start: {json_rule(schema_of(grammar))}"
        case GrammarKind.REGEX:
            pattern = regex_to_lark(grammar.source, "d").replace("\n", r"\n")  # d: digits are those of ASCII
            return f"start: /{pattern}/"
        case GrammarKind.CHOICE:
            choices = (json.dumps(choice, ensure_ascii=False) for choice in json.loads(grammar.source))
            return f"start: CHOICE\nCHOICE: {' | '.join(choices)}"
        case GrammarKind.LARK:
            return grammar.source


def schema_of(grammar: Grammar) -> Mapping[str, Any]:
    """Of one that is a JSON schema. Raises BadGrammar."""
    try:
        schema = json.loads(grammar.source)
    except ValueError as error:
        raise BadGrammar("", f"is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise BadGrammar("", "must be a JSON object")
    return schema


def briefly(problem: str, kind: GrammarKind) -> str:
    """The library's words without the lines of source that it repeats."""
    first, *others = problem.splitlines()
    if ONE_OF in first:
        return NOT_EXCLUSIVE
    if first == "NoExtensionBias":
        return "nothing can ever match this"
    if first.startswith("panic"):
        return "this is more than the grammar compiler can do"
    if kind is not GrammarKind.LARK:
        first = OUR_LINE.sub("", first)
    causes = (line.removeprefix("error: ") for line in others if line.startswith("error: "))
    text = " ".join([first, *causes])
    return text if len(text) <= MAX_PROBLEM else text[: MAX_PROBLEM - 1] + "…"
