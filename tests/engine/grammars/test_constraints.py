"""Grammars compiled for real, and followed at random: whatever a text may be, it is what was asked for."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import jsonschema
import pytest

from app.engine.detokenizer import Vocabulary
from app.engine.errors import ConstraintFailed
from app.engine.grammars.constraints import GrammarCompiler, GrammarConstraint
from app.engine.grammars.grammar import ANY_OBJECT, BadGrammar, Grammar, GrammarKind
from model.default_model import find_or_fetch
from model.formats import gguf_tokenizer
from model.formats.gguf_metadata import read_metadata
from tests.engine.grammars.grammar_walks import Walker, allowed_ids, is_allowed
from tests.fakes import BOS, BYTES, EOS

WALKS = 25  # of each schema and vocabulary


def closed(**properties: Any) -> dict[str, Any]:
    """An object that has all of these and nothing else."""
    required = sorted(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


SCHEMAS: dict[str, dict[str, Any]] = {
    "person": closed(
        name={"type": "string", "minLength": 1, "maxLength": 12},
        age={"type": "integer", "minimum": 0, "maximum": 150},
        tags={"type": "array", "items": {"enum": ["a", 'b"\n', "é", None, 3]}, "maxItems": 3},
    ),
    "more than is named": {
        "type": "object",
        "properties": {"id": {"type": "integer"}},
        "required": ["id"],
        "additionalProperties": {"type": "boolean"},
    },
    "tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"value": {"type": "integer"}, "children": {"items": {"$ref": "#/$defs/node"}}},
                "required": ["value"],
                "additionalProperties": False,
            }
        },
    },
    "alternatives": {
        "anyOf": [
            closed(kind={"const": "a"}, n={"type": "number"}),
            {"type": "array", "prefixItems": [{"type": "null"}, {"type": "string"}], "items": False, "minItems": 2},
            {"type": ["boolean", "integer"]},
        ]
    },
    "told apart by a field": {
        "oneOf": [
            closed(kind={"const": "cat"}),
            closed(kind={"const": "dog"}, weight={"type": "number", "minimum": -1.5, "exclusiveMaximum": 2.25}),
        ],
        "discriminator": {"propertyName": "kind"},
    },
    "all of it": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": "string", "pattern": "^[A-Z]{2}-\\d+$"}}, "required": ["b"]},
        ]
    },
    "names by pattern": {
        "type": "object",
        "patternProperties": {"^x_": {"type": "integer"}, "^y_": {"type": "string"}},
        "additionalProperties": False,
    },
    "formats": closed(day={"format": "date", "type": "string"}, id={"format": "uuid", "type": "string"}),
    "multiples": closed(a={"type": "integer", "multipleOf": 7, "minimum": 10}, b={"type": "number", "multipleOf": 0.5}),
    "an older draft": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [{"type": "integer"}, {"type": "string"}],
        "additionalItems": False,
    },
    "anything": {},
    "pattern and length": {"type": "string", "pattern": "^[a-z]+$", "minLength": 3, "maxLength": 6},
    "pattern somewhere": {"type": "string", "pattern": "b\\w", "maxLength": 20},
}


@pytest.fixture(scope="module")
def of_bytes() -> GrammarCompiler:
    return GrammarCompiler(BYTES, frozenset({EOS}))


@pytest.fixture(scope="module")
def default_model() -> tuple[Vocabulary, frozenset[int]]:
    path = find_or_fetch()
    tokenizer = gguf_tokenizer.build(read_metadata(path), path)
    return Vocabulary(tokenizer.token_bytes, tokenizer.special_token_ids), tokenizer.eos_token_ids


@pytest.fixture(scope="module")
def of_default_model(default_model) -> GrammarCompiler:
    return GrammarCompiler(*default_model)


def take(constraint: GrammarConstraint, text: str) -> GrammarConstraint:
    for byte in text.encode():
        assert byte in allowed_ids(constraint), (text, chr(byte))
        constraint.accept(byte)
    return constraint


def takes(constraint: GrammarConstraint, text: str) -> bool:
    """Whether it lets the whole text pass, and end there."""
    constraint = constraint.copy()
    for byte in text.encode():
        if not is_allowed(byte, constraint.allowed()):
            return False
        constraint.accept(byte)
    return is_allowed(EOS, constraint.allowed())


def walk_and_judge(constraint: GrammarConstraint, walker: Walker, schema: dict[str, Any]) -> None:
    judge = jsonschema.validators.validator_for(schema)(schema, format_checker=jsonschema.FormatChecker())
    texts = [walker.walk(constraint.copy()) for _ in range(WALKS)]
    finished = [text for text in texts if text is not None]
    assert len(finished) > WALKS / 2
    for text in finished:
        judge.validate(json.loads(text))


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_every_text_of_bytes_follows_the_schema(schema, of_bytes):
    walker = Walker(BYTES.token_bytes, frozenset({EOS}), seed=1)

    walk_and_judge(of_bytes.compile(Grammar.of_schema(schema)), walker, schema)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_every_text_of_the_default_models_tokens_follows_the_schema(schema, of_default_model, default_model):
    vocabulary, eos = default_model
    walker = Walker(vocabulary.token_bytes, eos, seed=2)

    walk_and_judge(of_default_model.compile(Grammar.of_schema(schema)), walker, schema)


@pytest.mark.parametrize("name", ["person", "tree", "alternatives", "multiples"])
def test_a_text_may_end_exactly_where_it_follows_the_schema(name, of_bytes):
    constraint = of_bytes.compile(Grammar.of_schema(SCHEMAS[name]))
    walker = Walker(BYTES.token_bytes, frozenset({EOS}), seed=6)
    for text in filter(None, (walker.walk(constraint.copy()) for _ in range(5))):
        for length in range(len(text) + 1):
            assert takes(constraint, text[:length]) == follows(text[:length], SCHEMAS[name]), text[:length]


def follows(text: str, schema: dict[str, Any]) -> bool:
    with suppress(ValueError, jsonschema.ValidationError):
        jsonschema.validate(json.loads(text), schema)
        return True
    return False


def test_any_object_is_an_object(of_bytes):
    walker = Walker(BYTES.token_bytes, frozenset({EOS}), seed=3)
    objects = [json.loads(walker.walk(of_bytes.compile(ANY_OBJECT)) or "{}") for _ in range(WALKS)]

    assert {type(one) for one in objects} == {dict}
    assert len({str(one) for one in objects}) > WALKS / 2


@pytest.mark.parametrize("expression", [r"\d{4}-\d\d|today", r"(a|bc)*d?", r"[^a-y]\d{0,3}", r"x/y\n?", "é+", r"^ab$"])
def test_a_text_may_end_exactly_where_it_matches_the_expression(expression, of_bytes):
    constraint = of_bytes.compile(Grammar(GrammarKind.REGEX, expression))
    walker = Walker(BYTES.token_bytes, frozenset({EOS}), seed=4)
    for text in filter(None, (walker.walk(constraint.copy()) for _ in range(WALKS))):
        assert re.fullmatch(expression, text), text
        for length in range(len(text) + 1):
            assert takes(constraint, text[:length]) == bool(re.fullmatch(expression, text[:length]))


@pytest.mark.parametrize("choices", [["yes", "no"], ["", "a", "ab"], ['"\\/\n\t\x01', "é\u2028", "<eos>"]])
def test_of_choices_one_comes_whole(choices, of_bytes):
    constraint = of_bytes.compile(Grammar.of_choices(choices))

    beginnings = {choice[:length] for choice in choices for length in range(len(choice) + 1)}
    assert {text for text in beginnings if takes(constraint, text)} == set(choices)


def test_a_grammar_of_the_clients_own(of_bytes):
    constraint = of_bytes.compile(Grammar(GrammarKind.LARK, 'start: "(" start ")" | "x"'))

    assert takes(constraint, "((x))")
    assert not takes(constraint, "((x)")


def test_blanks_in_json_come_to_an_end(of_bytes):
    constraint = take(of_bytes.compile(ANY_OBJECT), "{\n" + 16 * " ")

    assert set(allowed_ids(constraint)) == {*b'"}'}
    assert takes(of_bytes.compile(ANY_OBJECT), json.dumps({"a": [1, {"b": None}]}, indent=2))
    assert takes(of_bytes.compile(ANY_OBJECT), json.dumps({"a": [1, {"b": None}]}))
    assert takes(of_bytes.compile(ANY_OBJECT), json.dumps({"a": [1, {"b": None}]}, separators=(",", ":")))


def test_behind_the_end_only_the_end_may_come(of_bytes):
    constraint = take(of_bytes.compile(Grammar.of_choices(["ok"])), "ok")
    for _ in range(3):
        assert set(allowed_ids(constraint)) == {EOS}
        constraint.accept(EOS)


def test_every_end_of_text_token_ends():
    constraint = GrammarCompiler(BYTES, frozenset({EOS, BOS})).compile(Grammar.of_choices(["a"]))

    assert set(allowed_ids(constraint)) == {ord("a")}
    assert set(allowed_ids(take(constraint, "a"))) == {EOS, BOS}


def test_text_never_makes_a_special_token(of_bytes):
    constraint = of_bytes.compile(Grammar(GrammarKind.REGEX, "(?s:.*)"))

    assert BOS not in allowed_ids(constraint)
    assert set(allowed_ids(of_bytes.compile(Grammar.of_choices(["<bos>"])))) == {ord("<")}


@pytest.mark.parametrize("name", ["<bos>", f"<[{BOS}]>"])
def test_a_grammar_of_the_clients_own_may_name_one(name, of_bytes):
    constraint = of_bytes.compile(Grammar(GrammarKind.LARK, f'start: {name} "a"'))

    assert set(allowed_ids(constraint)) == {BOS}
    constraint.accept(BOS)
    assert set(allowed_ids(constraint)) == {ord("a")}


def test_a_vocabulary_may_have_ids_without_tokens_and_the_same_token_twice():
    tokens = (*BYTES.token_bytes, b"", b"ab", b"ab", b"")
    compiler = GrammarCompiler(Vocabulary(tokens, BYTES.special_token_ids), frozenset({EOS}))
    constraint = compiler.compile(Grammar.of_choices(["abc"]))

    assert set(allowed_ids(constraint)) == {ord("a"), 259, 260}
    constraint.accept(260)
    assert set(allowed_ids(constraint)) == {ord("c")}


def test_copies_go_their_own_ways_even_at_the_same_time(of_default_model, default_model):
    vocabulary, eos = default_model
    schema = SCHEMAS["person"]
    first = of_default_model.compile(Grammar.of_schema(schema))

    def walks(seed: int) -> list[str | None]:
        walker = Walker(vocabulary.token_bytes, eos, seed)
        return [walker.walk(first.copy()) for _ in range(8)]

    alone = [walks(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(walks, range(4))) == alone
    assert len({str(texts) for texts in alone}) == 4


def test_a_copy_goes_on_from_where_it_was_taken(of_bytes):
    constraint = take(of_bytes.compile(Grammar.of_choices(["left", "lost"])), "l")
    copy = constraint.copy()

    assert set(allowed_ids(take(copy, "o"))) == {ord("s")}
    assert set(allowed_ids(take(constraint, "e"))) == {ord("f")}


def test_a_token_that_was_not_allowed_fails_the_constraint(of_bytes):
    constraint = of_bytes.compile(Grammar.of_choices(["ok"]))

    with pytest.raises(ConstraintFailed, match="cannot be followed any further: .*doesn't satisfy the grammar"):
        constraint.accept(ord("x"))
    with pytest.raises(ConstraintFailed):
        constraint.allowed()


def test_a_grammar_that_explodes_later_fails_by_itself(of_bytes):
    rules = "\n".join(f'r{index}: r{index + 1} r{index + 1} | "a"' for index in range(1500))
    constraint = of_bytes.compile(Grammar(GrammarKind.LARK, f'start: r0\n{rules}\nr1500: "b"'))

    with pytest.raises(ConstraintFailed, match="cannot be followed any further: .*Current row has"):
        take(constraint, 1000 * "a")


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {"a": {"not": {}}}}, "properties.a.not: this keyword is not supported"),
        ({"properties": {"a": {"format": "password", "type": "string"}}}, "properties.a: Unknown format: password"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "properties.a: Pointer '/$defs/b' does not exist"),
        (
            {"items": {"$ref": "#/$defs/b"}, "$defs": {"b": {"properties": {"c": {"pattern": "(?=x)"}}}}},
            "$defs.b.properties.c: regex parse error: look-around",
        ),
        (
            {"anyOf": [{"type": "null"}, {"oneOf": [{"type": "array"}, {"type": "array"}]}]},
            "anyOf.1: oneOf is supported where",
        ),
        ({"type": "array", "items": {"type": "wrong"}}, "items: Invalid type: wrong"),
        ({"type": "object", "minProperties": 2, "properties": {"a": {}}}, "min/maxProperties only supported"),
        ({"$ref": "https://example.com/schema.json"}, "Resource 'https://example.com/schema.json' is not present"),
        ({"$ref": "#"}, "nothing can ever match this"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_with_its_place(schema, message, of_bytes):
    with pytest.raises(BadGrammar, match=f"^{re.escape(message)}"):
        of_bytes.compile(Grammar.of_schema(schema))


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        (GrammarKind.REGEX, "a(", "unclosed group"),
        (GrammarKind.REGEX, r"(a)\1", "backreferences are not supported"),
        (GrammarKind.LARK, 'start: "a"\n  | b', 'at 1(8): unknown name: "b"'),
        (GrammarKind.LARK, 'root ::= "a"', "1(7): Expected token"),
        (GrammarKind.LARK, "start: <unknown>", 'unknown special token: "<unknown>"'),
        (GrammarKind.LARK, f"start: <[{BOS + 1}]>", "Token range end too large"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(kind, source, message, of_bytes):
    with pytest.raises(BadGrammar, match=re.escape(message)) as caught:
        of_bytes.compile(Grammar(kind, source))
    assert len(str(caught.value)) < 320


def test_the_place_in_a_large_schema_is_told_as_far_as_its_parts_can_be_tried_out(of_bytes):
    large = {"type": "wrong", "enum": [40_000 * "x"]}

    with pytest.raises(BadGrammar, match="^items: Invalid type: wrong$"):
        of_bytes.compile(Grammar.of_schema({"items": {"$ref": "#/$defs/large"}, "$defs": {"large": large}}))


def test_an_end_of_text_that_the_vocabulary_does_not_have_ends_nothing():
    compiler = GrammarCompiler(BYTES, frozenset({EOS, 10_000}))

    assert set(allowed_ids(take(compiler.compile(Grammar.of_choices(["a"])), "a"))) == {EOS}


def test_a_model_without_an_end_of_text_has_no_grammars():
    with pytest.raises(BadGrammar, match="no end-of-text token"):
        GrammarCompiler(BYTES, frozenset()).compile(ANY_OBJECT)


def nested(depth: int) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": nested(depth - 1)}, "required": ["a"]} if depth else {"type": "null"}


HOSTILE = {
    "years of states": Grammar.of_schema({"type": "integer", "multipleOf": 999_983}),
    "patterns that meet": Grammar.of_schema({"allOf": [{"pattern": f"a{{{n}}}.*b{{{n}}}"} for n in range(1, 30)]}),
    "repetitions of repetitions": Grammar(GrammarKind.REGEX, "(.{1,500}){1,500}x"),
    "exponential for those who go back": Grammar(GrammarKind.REGEX, "(x+x+)+y"),
    "exponential for those who do not": Grammar(GrammarKind.REGEX, "(.|\n)*a(.|\n){40}"),
    "deep": Grammar.of_schema(nested(40)),
    "too deep": Grammar.of_schema(nested(60)),
    "many values": Grammar.of_schema({"enum": [f"{n * 7919 % 9973}" for n in range(5000)]}),
    "too many values": Grammar.of_schema({"enum": list(range(30_000))}),
    "a circle": Grammar.of_schema({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}),
    "a chain that doubles": Grammar.of_schema(
        {
            "$ref": "#/$defs/0",
            "$defs": {
                **{str(n): {"anyOf": 2 * [{"prefixItems": 2 * [{"$ref": f"#/$defs/{n + 1}"}]}]} for n in range(60)},
                "60": {"type": "null"},
            },
        }
    ),
    "a million items": Grammar.of_schema({"type": "array", "items": {"type": "null"}, "minItems": 1_000_000}),
    "ambiguous": Grammar(GrammarKind.LARK, 'start: e\ne: e e | "a" | /[ab]+/ |'),
}


@pytest.mark.parametrize("grammar", HOSTILE.values(), ids=HOSTILE)
def test_hostile_grammars_are_refused_or_followed_as_far_as_they_go(grammar, of_default_model, default_model):
    """That it ends is the assertion: some of these take the library minutes, and one its process."""
    vocabulary, eos = default_model
    with suppress(BadGrammar, ConstraintFailed):
        constraint = of_default_model.compile(grammar)
        Walker(vocabulary.token_bytes, eos, seed=5).walk(constraint, limit=100)
    assert takes_null(of_default_model), "whoever comes next is served"


def takes_null(compiler: GrammarCompiler) -> bool:
    return bool(set(allowed_ids(compiler.compile(Grammar.of_schema({"type": "null"})))))


def test_each_of_several_threads_has_its_own_answer():
    compiler = GrammarCompiler(BYTES, frozenset({EOS}))

    def problem_of(name: str) -> str:
        with pytest.raises(BadGrammar) as caught:
            compiler.compile(Grammar(GrammarKind.LARK, f"start: {name}"))
        return str(caught.value)

    names = [f"name{n}" for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(problem_of, names)) == [f'at 1(8): unknown name: "{name}"' for name in names]
