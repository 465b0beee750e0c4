import pytest
from pydantic import ValidationError

from app.api.chat.translation import refusing_as
from app.api.errors import InvalidRequest, invalid_request
from app.api.responses.input import NAMES, chat_of
from app.api.schemas.responses import LOGPROBS, ResponsesRequest

TOOL = {
    "type": "function",
    "name": "look",
    "description": "Looks.",
    "parameters": {"type": "object", "properties": {}},
    "strict": True,
}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "look", "arguments": '{"at": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "a", "output": "red"}


def body(**fields):
    return ResponsesRequest.model_validate({"input": "hello"} | fields)


def messages(*items, **fields):
    """As the model's template gets them."""
    return [message.for_template() for message in chat_of(body(input=list(items), **fields)).messages]


def refused(**fields):
    with pytest.raises(ValidationError) as caught:
        body(**fields)
    return str(invalid_request(caught.value))


def said(text):
    """The assistant's message as an answer has it."""
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": content}


def thought(text):
    content = [{"type": "reasoning_text", "text": text}]
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": content, "encrypted_content": None}


def test_a_string_is_the_users_message():
    chat = chat_of(body(instructions="Be kind."))

    assert [message.for_template() for message in chat.messages] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hello"},
    ]


def test_messages_with_and_without_a_type():
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]

    assert messages(
        {"role": "developer", "content": "Be kind."}, {"type": "message", "role": "user", "content": parts}
    ) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "a\nb"},
    ]


def test_the_items_of_one_turn_are_one_message():
    told = messages(
        {"role": "user", "content": "hi"}, thought("Hm."), said("I look."), CALL, CALL | {"call_id": "b"}, OUTPUT
    )

    function = {"name": "look", "arguments": '{"at": 1}'}
    calls = [{"id": id, "type": "function", "function": function} for id in ("a", "b")]
    assert told[1:] == [
        {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": calls},
        {"role": "tool", "content": "red", "tool_call_id": "a"},
    ]


def test_turns_that_follow_each_other_stay_apart():
    assert [message["content"] for message in messages(said("a"), said("b"))] == ["a", "b"]
    thoughts = messages(thought("a"), said("b"), thought("c"), said("d"))
    assert [(message["reasoning_content"], message["content"]) for message in thoughts] == [("a", "b"), ("c", "d")]
    rounds = messages(CALL, OUTPUT, CALL, OUTPUT)
    assert [message["role"] for message in rounds] == ["assistant", "tool", "assistant", "tool"]


def test_reasoning_that_is_not_told_is_no_message():
    assert messages({"role": "user", "content": "hi"}, {"type": "reasoning", "id": "r", "summary": []}, said("a")) == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "a"},
    ]


def test_what_steers_the_generation():
    chat = chat_of(body(max_output_tokens=7, temperature=0.5, top_p=0.9, stream=True, parallel_tool_calls=False))

    assert (chat.max_tokens, chat.temperature, chat.top_p, chat.stream) == (7, 0.5, 0.9, True)
    assert chat.parallel_tool_calls is False
    assert chat_of(body(ignore_eos=True)).ignore_eos is True
    assert chat_of(body(reasoning={"effort": "none", "summary": "auto"})).reasoning_effort == "none"


def test_tools():
    chat = chat_of(body(tools=[TOOL | {"defer_loading": False}], tool_choice={"type": "function", "name": "look"}))

    assert chat.tools is not None
    assert chat.tools[0].function.model_dump() == {key: value for key, value in TOOL.items() if key != "type"}
    assert chat.model_dump()["tool_choice"] == {"type": "function", "function": {"name": "look"}}


def test_output_in_a_format():
    schema = {"type": "object", "properties": {}}
    format = {"type": "json_schema", "name": "it", "schema": schema, "strict": True, "description": "It."}
    given = chat_of(body(text={"format": format, "verbosity": "medium"})).response_format

    assert given is not None
    assert given.json_schema is not None
    assert (given.json_schema.name, given.json_schema.schema_, given.json_schema.strict) == ("it", schema, True)
    assert chat_of(body(text={"format": {"type": "json_object"}})).response_format.type == "json_object"
    assert chat_of(body(text={})).response_format is None


def test_logprobs_are_asked_for_in_include():
    assert chat_of(body(include=[LOGPROBS], top_logprobs=3)).num_logprobs == 3
    assert chat_of(body(include=[LOGPROBS])).num_logprobs == 0
    assert chat_of(body(include=["reasoning.encrypted_content"], top_logprobs=0)).num_logprobs is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"store": True}, "store: answers are not stored here"),
        ({"previous_response_id": "resp_1"}, "previous_response_id: answers are not stored here"),
        ({"conversation": "c"}, "conversation: this field is not supported"),
        ({"background": True}, "background: "),
        ({"truncation": "auto"}, "truncation: "),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "no images or files"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0: expected an item of type message"),
        ({"input": []}, "input: "),
        ({"input": 7}, "input: expected a string or a list of items"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type: "),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice: expected"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format: expected"),
        ({"text": {"verbosity": "low"}}, "text.verbosity: "),
        ({"include": ["all"]}, "include.0: "),
        ({"top_logprobs": 2}, "top_logprobs: needs message.output_text.logprobs in include"),
        ({"max_output_tokens": 0}, "max_output_tokens: "),
        ({"seed": 1}, "seed: this field is not supported"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(fields, named):
    assert named in refused(**fields)


def test_what_asks_for_nothing_is_taken():
    extras = {
        "store": False,
        "background": False,
        "truncation": "disabled",
        "metadata": {"a": "b"},
        "user": "u",
        "prompt_cache_key": "k",
        "service_tier": "auto",
        "stream_options": {"include_obfuscation": False},
        "previous_response_id": None,
        "max_tool_calls": 3,
    }

    assert chat_of(body(**extras)) == chat_of(body())


def test_what_the_chat_path_refuses_has_this_apis_names():
    with pytest.raises(InvalidRequest, match=r"^tool_choice: needs tools") as caught, refusing_as(NAMES):
        chat_of(body(tool_choice="required"))
    assert caught.value.param == "tool_choice"
    with pytest.raises(InvalidRequest, match=r"^input: ") as caught, refusing_as(NAMES):
        raise InvalidRequest("messages.3.content", "cannot be read")
    assert str(caught.value) == "input: cannot be read"
