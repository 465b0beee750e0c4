import json
from typing import Any

import pytest
from pydantic import ValidationError

from app.api.errors import invalid_request
from app.api.schemas.structured import ResponseFormat, StructuredOutputs, grammar_of
from app.engine.grammars.grammar import ANY_OBJECT, MAX_CHOICES, MAX_REGEX, Grammar, GrammarKind

SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}
OF_SCHEMA = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))


def response_format(**fields: Any) -> ResponseFormat:
    return ResponseFormat.model_validate_json(json.dumps(fields))


def structured_outputs(**fields: Any) -> StructuredOutputs:
    return StructuredOutputs.model_validate_json(json.dumps(fields))


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, ANY_OBJECT),
        ({"type": "json_object", "schema": SCHEMA}, OF_SCHEMA),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}, OF_SCHEMA),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": False, "description": "b"}}, OF_SCHEMA),
    ],
)
def test_a_response_format_is_a_grammar(fields, grammar):
    assert grammar_of(response_format(**fields), None) == grammar


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({"json": SCHEMA}, OF_SCHEMA),
        ({"json": json.dumps(SCHEMA)}, OF_SCHEMA),
        ({"json": "not even JSON"}, Grammar(GrammarKind.JSON_SCHEMA, "not even JSON")),
        ({"regex": r"\d+", "json": None}, Grammar(GrammarKind.REGEX, r"\d+")),
        ({"choice": ["é", ""]}, Grammar(GrammarKind.CHOICE, '["é", ""]')),
        ({"grammar": 'start: "a"', "json_object": False}, Grammar(GrammarKind.LARK, 'start: "a"')),
        ({"json_object": True, "disable_fallback": True}, ANY_OBJECT),
    ],
)
def test_structured_outputs_are_a_grammar(fields, grammar):
    assert grammar_of(None, structured_outputs(**fields)) == grammar


def test_neither_is_no_grammar():
    assert grammar_of(None, None) is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"type": "yaml"}, "type"),
        ({"type": "json_schema"}, "json_schema"),
        ({"type": "json_object", "json_schema": {"schema": {}}}, "json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": True}}, "json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}}, "schema": {}}, "schema"),
        ({"type": "text", "schema": {}}, "schema"),
        ({"type": "text", "schema_": {}}, "schema_"),
        ({"type": "json_object", "lenient": True}, "lenient"),
    ],
)
def test_a_wrong_response_format_is_refused_by_name(fields, param):
    with pytest.raises(ValidationError) as caught:
        response_format(**fields)
    assert invalid_request(caught.value).param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "json"),
        ({"json_object": False}, "json"),
        ({"regex": "a", "choice": ["a"]}, "json"),
        ({"json": {}, "json_object": True}, "json"),
        ({"json": 5}, "json"),
        ({"regex": ""}, "regex"),
        ({"regex": (MAX_REGEX + 1) * "a"}, "regex"),
        ({"choice": []}, "choice"),
        ({"choice": [1]}, "choice.0"),
        ({"choice": (MAX_CHOICES + 1) * ["a"]}, "choice"),
        ({"grammar": ""}, "grammar"),
        ({"json": {}, "whitespace_pattern": " *"}, "whitespace_pattern"),
        ({"json": {}, "disable_any_whitespace": True}, "disable_any_whitespace"),
    ],
)
def test_wrong_structured_outputs_are_refused_by_name(fields, param):
    with pytest.raises(ValidationError) as caught:
        structured_outputs(**fields)
    assert invalid_request(caught.value).param == param
