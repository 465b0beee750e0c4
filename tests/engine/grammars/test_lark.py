import pytest

from app.engine.grammars.grammar import MAX_GRAMMAR, BadGrammar, Grammar, GrammarKind
from app.engine.grammars.lark import briefly, checked_lark, lark_of, schema_of


@pytest.mark.parametrize(
    ("grammar", "start"),
    [
        (Grammar(GrammarKind.REGEX, "a/b\n\\d"), "start: /a\\/b\\n[0-9]/"),
        (Grammar.of_choices(['"a"\n', "é"]), 'start: CHOICE\nCHOICE: "\\"a\\"\\n" | "é"'),
        (Grammar(GrammarKind.LARK, "start: x\nx: /a/"), "start: x\nx: /a/"),
    ],
)
def test_every_grammar_has_one_form(grammar, start):
    assert lark_of(grammar) == start
    assert checked_lark(grammar).startswith(start + "\n%llguidance")


@pytest.mark.parametrize(
    ("source", "problem"),
    [("{", "is not JSON: "), ("[{}]", "must be a JSON object"), ("null", "must be a JSON object")],
)
def test_a_schema_is_a_json_object(source, problem):
    with pytest.raises(BadGrammar, match=f"^{problem}"):
        schema_of(Grammar(GrammarKind.JSON_SCHEMA, source))


@pytest.mark.parametrize(
    ("grammar", "problem"),
    [
        (Grammar(GrammarKind.JSON_SCHEMA, 50_000 * "["), "nested too deeply"),
        (Grammar(GrammarKind.JSON_SCHEMA, '{"const": "\\ud800"}'), "half of a surrogate pair"),
        (Grammar.of_choices(["\ud800"]), "half of a surrogate pair"),
        (Grammar(GrammarKind.REGEX, "\ud800"), "half of a surrogate pair"),
        (Grammar(GrammarKind.LARK, MAX_GRAMMAR * "x"), f"at most {MAX_GRAMMAR} are compiled"),
        (Grammar(GrammarKind.REGEX, MAX_GRAMMAR // 2 * "é"), f"at most {MAX_GRAMMAR} are compiled"),
        (Grammar.of_schema({"enum": [MAX_GRAMMAR * "x"]}), f"at most {MAX_GRAMMAR} are compiled"),
        (Grammar(GrammarKind.JSON_SCHEMA, MAX_GRAMMAR * " " + "{}"), f"at most {MAX_GRAMMAR} are compiled"),
    ],
)
def test_what_need_not_be_compiled_to_be_refused(grammar, problem):
    with pytest.raises(BadGrammar, match=problem):
        checked_lark(grammar)


def test_of_the_librarys_words_the_lines_of_source_are_left_out():
    problem = 'at 1(8): invalid regex "a(":\n    a(\n     ^\nerror: unclosed group\n   1 | start: /a(/\n'

    assert briefly(problem, GrammarKind.REGEX) == 'invalid regex "a(": unclosed group'
    assert briefly(problem, GrammarKind.LARK) == 'at 1(8): invalid regex "a(": unclosed group'


def test_of_a_schema_our_own_wrapping_is_left_out():
    problem = "at 1(8): failed to compile JSON schema: Invalid type: x\n   1 | start: …"

    assert briefly(problem, GrammarKind.JSON_SCHEMA) == "Invalid type: x"


def test_long_words_are_cut():
    text = briefly(1000 * "x", GrammarKind.LARK)

    assert len(text) == 200
    assert text.endswith("x…")


def test_of_a_panic_nothing_is_told():
    assert "main.rs" not in briefly("panic: called at main.rs:3\n  backtrace", GrammarKind.LARK)


def test_options_that_nobody_has_are_not_advised():
    problem = "oneOf constraints are not supported. Enable 'coerce_one_of' option to approximate oneOf with anyOf"

    assert "coerce" not in briefly(problem, GrammarKind.JSON_SCHEMA)
    assert "anyOf" in briefly(problem, GrammarKind.JSON_SCHEMA)
