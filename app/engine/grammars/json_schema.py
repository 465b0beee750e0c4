"""JSON schemas as the grammar compiler takes them: what it does not know is refused here with its place, since the
library passes over some of it in silence and says of the rest only that it is there. Compiles nothing."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from app.engine.grammars.grammar import BadGrammar

MAX_DEPTH = 48  # of schemas in schemas: far below where the library's JSON reader ends, at 128 levels of text

# Between two parts of a JSON text: as json.dumps writes it, with and without indentation, or tighter. Each matches once
# at a place, so that blanks end: a small model may prefer them to everything else.
WHITESPACE = r" |\n {0,16}"

LISTS_OF_SCHEMAS = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})  # older drafts have lists of items
MAPS_OF_SCHEMAS = frozenset({"$defs", "definitions", "patternProperties", "properties"})
SCHEMAS = frozenset({"additionalItems", "additionalProperties", "items"})
ASSERTIONS = frozenset(
    {
        *("$ref", "const", "enum", "format", "maxItems", "maxLength", "maxProperties", "maximum", "minItems"),
        *("exclusiveMaximum", "exclusiveMinimum", "minLength", "minProperties", "minimum", "multipleOf"),
        *("pattern", "required", "type"),
    }
)
ANNOTATIONS = frozenset(
    {
        *("$anchor", "$comment", "$id", "$schema", "contentEncoding", "contentMediaType", "contentSchema", "default"),
        *("deprecated", "description", "discriminator", "example", "examples", "readOnly", "title", "writeOnly"),
    }
)
KNOWN = LISTS_OF_SCHEMAS | MAPS_OF_SCHEMAS | SCHEMAS | ASSERTIONS | ANNOTATIONS


def json_rule(schema: Mapping[str, Any]) -> str:
    """What stands for a JSON text of this schema in a grammar in Lark form. Raises BadGrammar."""
    refuse_unsupported(schema)
    return "%json " + json.dumps({**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}}, ensure_ascii=False)


def refuse_unsupported(schema: Mapping[str, Any]) -> None:
    """Raises BadGrammar for the first keyword that the compiler does not follow."""
    waiting: list[tuple[str, Any, int]] = [("", schema, 0)]
    while waiting:
        place, part, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise BadGrammar(place, f"is nested more than {MAX_DEPTH} levels deep")
        if isinstance(part, Mapping):
            _refuse_keywords(place, part)
            waiting += [(inner, value, depth + 1) for inner, value in subschemas(part, place)]
        elif not isinstance(part, bool):
            raise BadGrammar(place, "must be a schema: an object, or true or false")


def subschemas(schema: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Those directly in this one, each with its place. What is in the place of one may be none."""
    for keyword, value in schema.items():
        inner = _join(place, keyword)
        if keyword in MAPS_OF_SCHEMAS and isinstance(value, Mapping):
            yield from ((_join(inner, name), one) for name, one in value.items())
        elif keyword in LISTS_OF_SCHEMAS and isinstance(value, list):
            yield from ((_join(inner, str(index)), one) for index, one in enumerate(value))
        elif keyword in SCHEMAS:
            yield inner, value


def _refuse_keywords(place: str, schema: Mapping[str, Any]) -> None:
    for keyword in schema:
        if keyword not in KNOWN and (keyword == "x-guidance" or not keyword.startswith("x-")):
            raise BadGrammar(_join(place, keyword), "this keyword is not supported")


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
