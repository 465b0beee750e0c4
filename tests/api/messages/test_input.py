import pytest
from pydantic import ValidationError

from app.api.chat.translation import refusing_as
from app.api.errors import InvalidRequest, invalid_request
from app.api.messages.input import NAMES, chat_of, conversation_of
from app.api.schemas.anthropic import ConversationRequest, MessagesRequest

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}


def body(**fields):
    return MessagesRequest.model_validate({"max_tokens": 10, "messages": HELLO} | fields)


def messages(*given, **fields):
    """As the model's template gets them."""
    return [message.for_template() for message in chat_of(body(messages=list(given), **fields)).messages]


def refused(**fields):
    with pytest.raises(ValidationError) as caught:
        body(**fields)
    return str(invalid_request(caught.value))


def test_strings_and_blocks_of_text():
    system = [{"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "kind."}]

    assert messages(*HELLO, system=system) == [
        {"role": "system", "content": "Be\nkind."},
        {"role": "user", "content": "hello"},
    ]
    assert messages(*HELLO, system="Be kind.")[0] == {"role": "system", "content": "Be kind."}


def test_a_round_of_tools():
    assistant = [
        {"type": "thinking", "thinking": "Hm.", "signature": "x"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "a", "name": "look", "input": {"at": "it"}},
        {"type": "tool_use", "id": "b", "name": "look", "input": {}},
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "red"}], "is_error": False},
        {"type": "tool_result", "tool_use_id": "b"},
        {"type": "text", "text": "So?"},
    ]

    calls = [
        {"id": "a", "type": "function", "function": {"name": "look", "arguments": {"at": "it"}}},
        {"id": "b", "type": "function", "function": {"name": "look", "arguments": {}}},
    ]
    assert messages(*HELLO, {"role": "assistant", "content": assistant}, {"role": "user", "content": results})[1:] == [
        {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": calls},
        {"role": "tool", "content": "red", "tool_call_id": "a"},
        {"role": "tool", "content": "", "tool_call_id": "b"},
        {"role": "user", "content": "So?"},
    ]


def test_an_answer_goes_on_from_the_assistants_last_words():
    chat = chat_of(body(messages=[*HELLO, {"role": "assistant", "content": "The answer is"}]))

    assert chat.continue_final_message
    assert chat.add_generation_prompt is False
    assert not chat_of(body()).continue_final_message


def test_what_steers_the_generation():
    chat = chat_of(body(temperature=0.5, top_p=0.9, top_k=7, stop_sequences=["a", "b"], stream=True))

    assert (chat.max_tokens, chat.temperature, chat.top_p, chat.top_k) == (10, 0.5, 0.9, 7)
    assert chat.stop_strings == ("a", "b")
    assert chat.stream


def test_tools():
    chat = chat_of(body(tools=[TOOL | {"strict": True, "cache_control": {"type": "ephemeral"}}]))

    assert chat.tools is not None
    function = chat.tools[0].function
    assert (function.name, function.description, function.strict) == ("look", "Looks.", True)
    assert function.parameters == TOOL["input_schema"]
    assert chat.tool_choice is None


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "look"}, {"type": "function", "function": {"name": "look"}}),
    ],
)
def test_choices_of_tools(given, chosen):
    chat = chat_of(body(tools=[TOOL], tool_choice=given))

    assert chat.model_dump()["tool_choice"] == chosen
    assert chat.parallel_tool_calls is None


def test_one_call_at_a_time():
    chat = chat_of(body(tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True}))

    assert chat.parallel_tool_calls is False


@pytest.mark.parametrize(
    ("given", "thinks"),
    [({"type": "enabled", "budget_tokens": 1024}, True), ({"type": "disabled"}, False), ({"type": "adaptive"}, None)],
)
def test_thinking(given, thinks):
    assert chat_of(body(thinking=given)).thinking is thinks


def test_output_in_a_format():
    schema = {"type": "object"}
    chat = chat_of(body(output_config={"format": {"type": "json_schema", "schema": schema}, "effort": "low"}))

    assert chat.response_format is not None
    assert chat.response_format.json_schema is not None
    assert chat.response_format.json_schema.schema_ == schema
    assert chat.reasoning_effort == "low"


def test_counting_needs_no_max_tokens():
    chat = conversation_of(ConversationRequest.model_validate({"messages": HELLO, "system": "Be kind."}))

    assert [message.role for message in chat.messages] == ["system", "user"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages.0.content.0: "),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "no images or documents"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content: expected a string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}]},
            "messages.0.content: blocks of type tool_use belong in messages of the assistant",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]}],
                    }
                ]
            },
            "tool_result.content.0: expected a block",
        ),
        ({"messages": []}, "messages: "),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"tools": [{"type": "web_search_20260101", "name": "web_search"}]}, "tools.0.type: "),
        ({"tools": [TOOL | {"input_examples": [{}]}]}, "tools.0.input_examples: "),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name: "),
        ({"thinking": {"type": "enabled", "display": "omitted"}}, "thinking.display: "),
        ({"container": "c"}, "container: this field is not supported"),
        ({"seed": 1}, "seed: this field is not supported"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(fields, named):
    assert named in refused(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"user_id": "u"}, "service_tier": "auto", "cache_control": {"type": "ephemeral"}},
        {"mcp_servers": [], "speed": "standard", "container": None},
    ],
)
def test_what_asks_for_nothing_is_taken(fields):
    assert chat_of(body(**fields)) == chat_of(body())


def test_what_the_chat_path_refuses_has_this_apis_names():
    with refusing_as(NAMES), pytest.raises(InvalidRequest, match=r"^tool_choice: must name one of the tools"):
        chat_of(body(tools=[TOOL], tool_choice={"type": "tool", "name": "other"}))
    with (
        pytest.raises(InvalidRequest, match=r"^tools: each function needs a name of its own") as caught,
        refusing_as(NAMES),
    ):
        chat_of(body(tools=[TOOL, TOOL]))
    assert caught.value.param == "tools"
