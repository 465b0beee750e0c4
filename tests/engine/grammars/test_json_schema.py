import json
from typing import Any

import pytest

from app.engine.grammars.grammar import BadGrammar
from app.engine.grammars.json_schema import MAX_DEPTH, json_rule, refuse_unsupported, subschemas


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"not": {}}, "not"),
        ({"properties": {"a": {"items": {"maxlength": 3}}}}, "properties.a.items.maxlength"),
        ({"properties": {"a": {"items": [{}, {"uniqueItems": True}]}}}, "properties.a.items.1.uniqueItems"),
        ({"$defs": {"unused": {"nullable": True}}}, "$defs.unused.nullable"),
        ({"definitions": {"a": {"additionalProperties": {"if": {}}}}}, "definitions.a.additionalProperties.if"),
        ({"anyOf": [{}, {"oneOf": [{"allOf": [{"contains": {}}]}]}]}, "anyOf.1.oneOf.0.allOf.0.contains"),
        (
            {"patternProperties": {"^a": {"prefixItems": [{"extends": {}}]}}},
            "patternProperties.^a.prefixItems.0.extends",
        ),
        ({"x-guidance": {"lenient": True}}, "x-guidance"),
    ],
)
def test_a_keyword_that_is_not_followed_is_refused_with_its_place(schema, place):
    with pytest.raises(BadGrammar) as caught:
        refuse_unsupported(schema)
    assert caught.value.place == place
    assert str(caught.value) == f"{place}: this keyword is not supported"


def test_what_only_explains_is_not_refused():
    names = ("title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "x-order")

    refuse_unsupported({"type": "object", "properties": {"not": {"type": "null"}}, **dict.fromkeys(names, "a")})


def test_values_are_no_schemas():
    refuse_unsupported({"const": {"not": 1}, "enum": [{"if": 1}], "default": {"not": 1}, "examples": [{"not": 1}]})


@pytest.mark.parametrize("schema", [{"properties": {"a": 5}}, {"items": "a"}, {"anyOf": [None]}])
def test_what_is_no_schema_is_refused_with_its_place(schema):
    with pytest.raises(BadGrammar, match=r"^(properties\.a|items|anyOf\.0): must be a schema"):
        refuse_unsupported(schema)


def nested(depth: int) -> dict[str, Any]:
    return {"items": nested(depth - 1)} if depth else {}


def test_depth_has_a_limit():
    refuse_unsupported(nested(MAX_DEPTH))
    with pytest.raises(BadGrammar, match="nested more than") as caught:
        refuse_unsupported(nested(MAX_DEPTH + 1))
    assert len(str(caught.value)) < 160


def test_the_parts_of_a_schema_have_their_places():
    schema = {
        "items": True,
        "properties": {"a": {"type": "null"}, "b": {}},
        "anyOf": [{"minimum": 1}],
        "$defs": {"c": {"items": {}}},
        "required": ["a"],
    }

    assert dict(subschemas(schema, "at")) == {
        "at.items": True,
        "at.properties.a": {"type": "null"},
        "at.properties.b": {},
        "at.anyOf.0": {"minimum": 1},
        "at.$defs.c": {"items": {}},
    }


def test_a_rule_has_the_schema_in_the_order_that_the_client_gave_it():
    schema = {"properties": {"b": {"const": "é\n"}, "a": {}}, "type": "object"}
    rule = json_rule(schema)

    assert rule.startswith("%json {")
    written = json.loads(rule.removeprefix("%json "))
    assert list(written["properties"]) == ["b", "a"]
    assert {name: written[name] for name in schema} == schema


def test_a_rule_is_refused_like_its_schema():
    with pytest.raises(BadGrammar, match="^not: "):
        json_rule({"not": {}})
