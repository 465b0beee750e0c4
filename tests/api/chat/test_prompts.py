"""A chat request to its prompt: tools, and the switch for reasoning under all its names."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from app.api.chat.parser import Start
from app.api.chat.prompts import ChatPrompt, chat_prompt
from app.api.errors import InvalidRequest
from app.api.schemas.chat import ChatRequest
from app.api.served import ServedModel
from model.chat_template import ChatTemplate
from tests.api.api_parts import served_model

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "description": "é", "parameters": {"type": "object"}}}
CALLED = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
HISTORY = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALLED, CALLED], "reasoning_content": "hm"},
    {"role": "tool", "tool_call_id": "c1", "content": "one"},
    {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "two"}]},
    {"role": "user", "content": "and?"},
]
LINES = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}bot: {% endif %}"
)
SWITCHED = (
    "{% if add_generation_prompt %}{{ '<think>\n' if enable_thinking else '<think>\n\n</think>\n\n' }}{% endif %}"
)
LEFT_TO_THE_MODEL = "{% if add_generation_prompt %}bot: {{ '<think></think>' if enable_thinking is false }}{% endif %}"
ALWAYS = "{{ messages[0].content }}{% if add_generation_prompt %}<think>\n{% endif %}"
SCHEMA = {"type": "json_object"}


def served(source: str, **changes: Any) -> ServedModel:
    return served_model(chat_template=ChatTemplate(source, {}), **changes)


def prompt(source: str, **fields: Any) -> ChatPrompt:
    return chat_prompt(ChatRequest.model_validate({"messages": [USER], **fields}), served(source))


def refusal(source: str, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        prompt(source, **fields)
    return caught.value


def test_history_reaches_a_template_that_knows_tools():
    source = "{% for m in messages %}{{ m | tojson }}\n{% endfor %}{{ tools | tojson }}{{ add_generation_prompt }}"
    *lines, tools = prompt(source, messages=HISTORY, tools=[TOOL]).text.splitlines()
    user, assistant, *results, _ = [json.loads(line) for line in lines]

    assert user == USER
    assert assistant["content"] == ""
    assert assistant["reasoning_content"] == "hm"
    assert [call["function"] for call in assistant["tool_calls"]] == [{"name": "f", "arguments": {"a": 1}}] * 2
    assert [(result["content"], result["tool_call_id"]) for result in results] == [("one", "c1"), ("two", "c1")]
    assert tools == json.dumps([TOOL], ensure_ascii=False) + "True"


def test_what_is_strict_is_not_shown_to_the_model():
    strict = {**TOOL, "function": {**TOOL["function"], "strict": True}}

    assert (
        prompt("{{ tools | tojson }}{{ add_generation_prompt }}", tools=[strict]).text
        == json.dumps([TOOL], ensure_ascii=False) + "True"
    )


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({}, Start.ANSWER),
        ({"chat_template_kwargs": {"enable_thinking": True}}, Start.REASONING),
        ({"chat_template_kwargs": {"open_thinking": True}}, Start.REASONING),
        ({"chat_template_kwargs": {"thinking": False}}, Start.ANSWER),
        ({"open_thinking": True}, Start.REASONING),
        ({"enable_thinking": True}, Start.REASONING),
        ({"enable_thinking": False}, Start.ANSWER),
        ({"reasoning_effort": "low"}, Start.REASONING),
        ({"reasoning_effort": "none"}, Start.ANSWER),
        ({"reasoning_effort": "high", "open_thinking": True}, Start.REASONING),
        ({"add_generation_prompt": False, "reasoning_effort": "high"}, Start.ANSWER),
    ],
)
@pytest.mark.parametrize("name", ["enable_thinking", "open_thinking", "thinking"])
def test_reasoning_is_switched_under_all_of_its_names(fields, start, name):
    assert prompt(SWITCHED.replace("enable_thinking", name), **fields).start is start


def test_an_answer_that_follows_a_grammar_is_asked_for_without_reasoning():
    forced = {"tools": [TOOL], "tool_choice": "required"}

    for fields in ({"response_format": SCHEMA}, forced):
        assert prompt(LEFT_TO_THE_MODEL, **fields).text == "bot: <think></think>"
        assert prompt(ALWAYS, **fields).start is Start.REASONING
    assert prompt(LEFT_TO_THE_MODEL, tools=[TOOL]).text.endswith("bot: ")


def test_reasoning_before_a_grammar_is_opened_by_the_prompt():
    for fields, text in (({}, "bot: "), ({"response_format": SCHEMA}, "bot: <think>\n")):
        found = prompt(LEFT_TO_THE_MODEL, reasoning_effort="high", **fields)
        assert found.text == text
        assert found.start is (Start.REASONING if fields else Start.ANSWER)


@pytest.mark.parametrize("field", [{"reasoning_effort": "high"}, {"open_thinking": True}, {"enable_thinking": True}])
def test_what_a_template_cannot_be_told_is_refused(field):
    (name,) = field

    assert refusal(LINES, **field).param == name
    assert refusal(ALWAYS, reasoning_effort="none").param == "reasoning_effort"
    assert (
        refusal(LINES, chat_template_kwargs={"enable_thinking": True}).param == "chat_template_kwargs.enable_thinking"
    )
    assert prompt(ALWAYS, **field).start is Start.REASONING
    assert prompt(LINES, chat_template_kwargs={"enable_thinking": False}, reasoning_effort="none").start is Start.ANSWER


def test_a_template_with_efforts_gets_the_effort():
    assert prompt("{{ reasoning_effort }}{{ add_generation_prompt }}", reasoning_effort="low").text == "lowTrue"


def test_variables_reach_the_template():
    source = "{{ date }}{{ flags | tojson }}{{ add_generation_prompt }}"

    assert prompt(source, chat_template_kwargs={"date": "today", "flags": {"a": [1]}}).text == 'today{"a": [1]}True'
    assert refusal(source, chat_template_kwargs={"data": 1}).param == "chat_template_kwargs.data"


def test_special_tokens_are_not_variables_to_be_set():
    source = "{{ eos_token }}{{ add_generation_prompt }}"
    roles = served(source).tokenizer.special_tokens

    assert roles
    for name in roles:
        assert refusal(f"{{{{ {name} }}}}{{{{ add_generation_prompt }}}}", chat_template_kwargs={name: "x"}).param


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "continue_final_message"])
def test_fields_are_not_variables_to_be_set(name):
    with pytest.raises(ValidationError, match="is a field of the request"):
        prompt(LINES, chat_template_kwargs={name: []})


@pytest.mark.parametrize(
    "variables",
    [
        {"a b": 1},
        {"": 1},
        {"x" * 65: 1},
        {"enable_thinking": "yes"},
        {"a": "x" * 70_000},
        dict.fromkeys(map("v{}".format, range(33))),
    ],
)
def test_variables_are_bounded(variables):
    with pytest.raises(ValidationError):
        prompt(LINES, chat_template_kwargs=variables)


def test_fields_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="contradicts"):
        prompt(SWITCHED, reasoning_effort="high", chat_template_kwargs={"enable_thinking": False})


def test_a_generation_prompt_that_the_template_always_writes_cannot_be_declined():
    assert refusal("bot: ", add_generation_prompt=False).param == "add_generation_prompt"
    assert prompt(LINES, add_generation_prompt=False).text == "user: hi\n"


@pytest.mark.parametrize(
    ("content", "start"),
    [
        ("Well,", Start.CONTENT),
        ("<think>\nhm", Start.REASONING),
        ("<think>hm</think>Well", Start.CONTENT),
        ("a <think>", Start.CONTENT),
    ],
)
def test_a_last_message_goes_on_where_it_ends(content, start):
    messages = [USER, {"role": "assistant", "content": content}]
    found = prompt(LINES, messages=messages, continue_final_message=True)

    assert found.text == f"user: hi\nassistant: {content}"
    assert found.start is start


def test_only_an_assistant_s_message_goes_on():
    with pytest.raises(ValidationError, match="continue_final_message|assistant"):
        prompt(LINES, continue_final_message=True)
    with pytest.raises(ValidationError, match="add_generation_prompt"):
        prompt(
            LINES,
            messages=[USER, {"role": "assistant", "content": "x"}],
            continue_final_message=True,
            add_generation_prompt=True,
        )
    assert refusal(LINES, messages=[USER, {"role": "assistant", "content": ""}], continue_final_message=True)


def test_a_model_without_a_template_does_not_chat():
    with pytest.raises(InvalidRequest, match="/v1/completions"):
        chat_prompt(ChatRequest.model_validate({"messages": [USER]}), served_model(chat_template=None))
