"""Tool calls as clients have them, in templates that take their arguments for text, and in others that take them for an
object."""

import json
from typing import Any

import pytest

from model.chat_messages import ChatTemplateError, prepare
from model.chat_template import ChatTemplate

SAID = '{"city":"Zürich",  "days": 1.50}'
VALUES = {"city": "Zürich", "days": 1.5}


def message(arguments: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}}],
    }


def render(expression: str, arguments: Any) -> str:
    source = "{% set a = messages[0].tool_calls[0].function.arguments %}" + expression
    return ChatTemplate(source, {}).render([message(arguments)])


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("{{ a }}", SAID),
        ("{{ a | tojson }}", SAID),
        ("{{ a if a is string else a | tojson }}", SAID),
        ("{{ '<' + a + '>' }}", f"<{SAID}>"),
        ("{{ '<' ~ a ~ '>' }}", f"<{SAID}>"),
        ("{{ a.city }}", "Zürich"),
        ("{% for key, value in a | items %}{{ key }}={{ value }};{% endfor %}", "city=Zürich;days=1.5;"),
        ("{{ a is mapping }}", "True"),
        ("{{ {'x': a} | tojson }}", json.dumps({"x": VALUES}, ensure_ascii=False)),
    ],
)
def test_arguments_are_a_text_and_an_object_at_once(expression, text):
    assert render(expression, SAID) == text


def test_arguments_that_came_as_an_object_are_one():
    assert render("{{ a | tojson }}", VALUES) == json.dumps(VALUES, ensure_ascii=False)
    assert render("{{ a is string }}", VALUES) == "False"


@pytest.mark.parametrize("said", ["{broken", "[1]", "1" * 5000, "[" * 100_000])
def test_what_is_no_object_stays_the_text_that_it_is(said):
    assert render("{{ a }}", said) == said


def test_no_arguments_are_an_empty_object():
    assert render("{{ a | tojson }}", "") == "{}"


def test_messages_stay_as_they_are():
    before = message(SAID)

    assert json.loads(json.dumps(prepare(before)["tool_calls"])) != before["tool_calls"]
    assert before == message(SAID)


@pytest.mark.parametrize("calls", [[{"name": "now", "arguments": {}}], [{"function": None}], ["f"]])
def test_calls_in_another_shape_are_left_to_the_template(calls):
    assert prepare({"role": "assistant", "tool_calls": calls})["tool_calls"] == calls


def test_a_sum_with_something_else_is_the_templates_fault():
    with pytest.raises(ChatTemplateError, match="TypeError"):
        render("{{ a + 1 }}", SAID)
    with pytest.raises(ChatTemplateError, match="TypeError"):
        render("{{ 1 + a }}", SAID)
