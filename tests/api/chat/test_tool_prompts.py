"""Tools for models whose chat template knows none: in messages that every template takes."""

from typing import Any

from app.api.chat.prompts import chat_prompt
from app.api.schemas.chat import ChatRequest
from model.chat_template import ChatTemplate
from tests.api.api_parts import served_model

LINES = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}bot: {% endif %}"
)
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "description": "é", "parameters": {"type": "object"}}}
CALLED = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
HISTORY = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALLED, CALLED]},
    {"role": "tool", "tool_call_id": "c1", "content": "one"},
    {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "two"}]},
    {"role": "user", "content": "and?"},
]


def text_of(**fields: Any) -> str:
    body = ChatRequest.model_validate({"messages": [USER], **fields})
    return chat_prompt(body, served_model(chat_template=ChatTemplate(LINES, {}))).text


def test_a_template_that_knows_no_tools_is_told_of_them_in_messages():
    text = text_of(messages=[{"role": "developer", "content": "Be brief."}, *HISTORY], tools=[TOOL])

    assert text.startswith("system: Be brief.\n\nYou can call functions.")
    assert '\n{"name": "f", "description": "é", "parameters": {"type": "object"}}\n' in text
    call = '<tool_call>\n{"name": "f", "arguments": {"a":1}}\n</tool_call>'
    result = "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>"
    assert text.endswith(f"user: hi\nassistant: {call}\n{call}\nuser: {result}\nuser: and?\nbot: ")


def test_without_a_system_message_there_is_one_of_tools_only_where_there_are_tools():
    assert text_of(tools=[TOOL]).startswith("system: You can call functions.")
    assert text_of(tools=[]) == "user: hi\nbot: "
    assert text_of(tools=[TOOL], tool_choice="none") == "user: hi\nbot: "


def test_text_before_a_call_and_arguments_of_any_shape_are_kept():
    for arguments in ({}, ""):
        call = CALLED | {"function": {"name": "f", "arguments": arguments}}
        text = text_of(messages=[USER, {"role": "assistant", "content": "Hm", "tool_calls": [call]}])
        assert 'assistant: Hm\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n' in text


def test_results_alone_come_in_the_users_name():
    assert text_of(messages=[HISTORY[2]]) == "user: <tool_response>\none\n</tool_response>\nbot: "
