"""Messages of all roles on the wire: as clients write them, as they send answers back, and what is refused by name."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.api.errors import invalid_request
from app.api.schemas.chat import ChatRequest
from app.api.schemas.chat_messages import ChatMessage

IMAGE = {"type": "image_url", "image_url": {"url": "https://x"}}
TEXT = {"type": "text", "text": "a"}
REFUSAL = {"type": "refusal", "refusal": "no"}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "s"}
NOTHING = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": []}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def for_template(**fields: Any) -> dict[str, Any]:
    return ChatMessage.model_validate(fields).for_template()


def refusal_of(**fields: Any) -> tuple[str | None, str]:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({"messages": [fields]})
    error = invalid_request(caught.value)
    return error.param, str(error)


@pytest.mark.parametrize(
    ("message", "seen"),
    [
        ({"role": "developer", "content": "be"}, {"role": "system", "content": "be"}),
        ({"role": "user", "content": "hi", "name": "Ada"}, {"role": "user", "content": "hi", "name": "Ada"}),
        ({"role": "user", "content": []}, {"role": "user", "content": ""}),
        (
            {"role": "tool", "content": [{"type": "text", "text": "1"}], "tool_call_id": "c", "name": "f"},
            {"role": "tool", "content": "1", "tool_call_id": "c", "name": "f"},
        ),
        (
            {"role": "assistant", "content": None, "tool_calls": [CALL | {"index": 0}]},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
        ),
        (
            {"role": "assistant", "content": "x", "reasoning": "", "thinking": "hm"},
            {"role": "assistant", "content": "x", "reasoning_content": "hm"},
        ),
        (
            {"role": "assistant", "reasoning_content": "hm"},
            {"role": "assistant", "content": "", "reasoning_content": "hm"},
        ),
        ({"role": "assistant", "content": [THOUGHT, TEXT]}, {"role": "assistant", "content": "a"}),
        ({"role": "assistant", "content": [REFUSAL]}, {"role": "assistant", "content": "no"}),
        ({"role": "assistant", "content": "x"} | NOTHING, {"role": "assistant", "content": "x"}),
    ],
)  # fmt: skip
def test_what_a_template_sees_of_a_message(message, seen):
    assert for_template(**message) == seen


@pytest.mark.parametrize("arguments", ["{}", "", "no JSON", {"a": 1}])
def test_arguments_reach_the_template_as_they_are(arguments):
    called = {"type": "function", "function": {"name": "f", "arguments": arguments}}

    (seen,) = for_template(role="assistant", content=None, tool_calls=[called])["tool_calls"]
    assert seen["function"]["arguments"] == arguments


@pytest.mark.parametrize(
    ("message", "field", "problem"),
    [
        ({"role": "user", "content": [TEXT, IMAGE]}, "content", "parts of type image_url are not supported"),
        ({"role": "user", "content": [{"type": "secret-word"}]}, "content", "expected a string, or a list of parts"),
        ({"role": "user", "content": ["a"]}, "content", "expected a string, or a list of parts"),
        ({"role": "user", "content": [TEXT | {"x": 1}]}, "content", "expected a string, or a list of parts"),
        ({"role": "user", "content": [{"type": "thinking", "thinking": ""}]}, "content", "are the assistant's"),
        ({"role": "user"}, "content", "only an assistant that calls tools needs none"),
        ({"role": "assistant", "content": None}, "content", "only an assistant that calls tools needs none"),
        ({"role": "tool", "content": None}, "content", "only an assistant that calls tools needs none"),
        ({"role": "user", "content": "a", "tool_calls": [CALL]}, "tool_calls", "only the assistant's"),
        ({"role": "user", "content": "a", "reasoning_content": "b"}, "reasoning_content", "only the assistant's"),
        ({"role": "user", "content": "a", "tool_call_id": "c"}, "tool_call_id", "only a tool's"),
        ({"role": "function", "content": "a"}, "role", "system"),
        ({"role": "assistant", "content": "a", "function_call": {"name": "f"}}, "function_call", "not supported"),
        ({"role": "assistant", "content": "a", "audio": {"id": "x"}}, "audio", "not supported"),
        ({"role": "user", "content": "a", "mood": "good"}, "mood", "not supported"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}, "tool_calls.0.function.arguments", ""),
        ({"role": "assistant", "tool_calls": [{"type": "custom", "custom": {}}]}, "tool_calls.0.type", "function"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_message_is_named(message, field, problem):
    param, text = refusal_of(**message)

    assert param == f"messages.0.{field}"
    assert problem in text
    assert "secret-word" not in text
