"""The API reference's table of parameters, from the schemas. To print it: python -m tests.parameter_table"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from app.api.schemas.chat import ChatRequest
from app.api.schemas.completions import CompletionRequest
from app.api.schemas.generation import GenerationRequest
from app.api.schemas.sampling import SamplingRequest

Schema = Mapping[str, Any]
NAMES = {"string": "text", "boolean": "flag", "object": "object"}
PLURALS = {"token ids": "lists of token ids"}
LARGE = 2**31 - 1  # a bound from here on is one of the machine's, not of the parameter …
MANY = 2**20  # … and so is such a length of a list


def table() -> list[str]:
    """Its lines: the fields of both routes, those of the choice of tokens last among them; then each route's own."""
    return ["| field | of | value | meaning |", "|---|---|---|---|", *_rows()]


def _rows() -> Iterator[str]:
    own = {"completions": CompletionRequest, "chat": ChatRequest}
    common = sorted(GenerationRequest.model_fields, key=lambda name: name in SamplingRequest.model_fields)
    yield from (_row(name, "both", CompletionRequest) for name in common)
    for route, request in own.items():
        yield from (_row(name, route, request) for name in request.model_fields if name not in common)


def _row(name: str, routes: str, request: type[GenerationRequest]) -> str:
    schema = request.model_json_schema()
    field = schema["properties"][name]
    assert "description" in field, f"{request.__name__}.{name} needs a description"
    value = _value(field, schema.get("$defs", {})).replace("|", "\\|")
    return f"| `{name}` | {routes} | {value} | {field['description']} |"


def _value(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    """The type of a value and its bounds, in words."""
    if "$ref" in schema:
        return _value(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        kinds = [_value(one, definitions) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{one}`" for one in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        most, items = schema.get("maxItems", LARGE), schema["items"]
        are_token_ids = items.get("minimum") == 0 and items.get("maximum") == LARGE
        each = "token ids" if are_token_ids else PLURALS.get(kind := _value(items, definitions), f"{kind}s")
        return f"up to {most} {each}" if most < MANY else each
    return NAMES.get(schema.get("type", "object"), "") or f"{schema['type']}{_bounds(schema)}"


def _bounds(schema: Schema) -> str:
    above, least, most = schema.get("exclusiveMinimum"), schema.get("minimum"), schema.get("maximum")
    low = f" above {above}" if above is not None else f" {least}" if least is not None and least > -LARGE else ""
    high = f" to {most}" if most is not None and most < LARGE else " and up" if low else ""
    return low + high


if __name__ == "__main__":
    sys.stdout.write("\n".join(table()) + "\n")
