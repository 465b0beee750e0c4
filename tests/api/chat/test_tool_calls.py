"""What stands between the tags of a call: as models write it, and what is no call."""

import json
from itertools import accumulate

import pytest

from app.api.chat.tool_calls import JsonStrings, ReadCall, read_call


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"name": "f", "arguments": {"a": "é", "b": [1, null]}}', {"a": "é", "b": [1, None]}),
        ('\n {"arguments": {}, "name": "f", "id": 7}\n', {}),
        ('{"name": "f"}', {}),
        ('{"name": "f", "parameters": {"a": 1}}', {"a": 1}),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', {"a": 1}),
        ('{"name": "f", "arguments": {"a": "x\ny"}}', {"a": "x\ny"}),
    ],
)
def test_a_call_as_models_write_it(text, arguments):
    call = read_call(text)

    assert call is not None
    assert call.name == "f"
    assert json.loads(call.arguments) == arguments


def test_arguments_are_written_as_templates_write_them():
    assert read_call('{"name":"f","arguments":{"ü":1,"b":[]}}') == ReadCall("f", '{"ü": 1, "b": []}')


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f()",
        '["f"]',
        '{"name": 1}',
        '{"arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": null}',
        '{"name": "f", "arguments": "x"}',
        '{"name": "f", "arguments": {"a": NaN}}',
        '{"name": "f", "arguments": {}',
        '{"name": "f"} {"name": "g"}',
        '{"name": "f", "arguments": {"a": ' + "[" * 100_000,
        '{"name": "f", "arguments": {"a": ' + "9" * 5000 + "}}",
    ],
)
def test_what_is_no_call(text):
    assert read_call(text) is None


def test_where_a_text_ends_in_a_string():
    text = r'{"a\"b": "\\", "c\\\"d": 1}'
    whole = [JsonStrings().end_in(prefix) for prefix in accumulate(text)]
    growing = JsonStrings()

    assert [growing.end_in(prefix) for prefix in accumulate(text)] == whole
    assert "".join(character for character, inside in zip(text, whole, strict=True) if inside) == r'"a\"b"\\"c\\\"d'
