"""The anthropic SDK: /v1/messages and its count of tokens."""

from typing import Literal

import anthropic
from pydantic import BaseModel

MESSAGES = [{"role": "user", "content": "Name three colours of autumn leaves."}]
TOOL = {
    "name": "weather",
    "description": "The weather of a city.",
    "strict": True,
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
ASKED = {"messages": [{"role": "user", "content": "The weather in Oslo?"}], "tools": [TOOL], "max_tokens": 80}
GREEDY = {"extra_body": {"temperature": 0}}  # the SDK itself has given the field up
STOPS = ("end_turn", "max_tokens")


class Review(BaseModel):
    mood: Literal["good", "bad"]
    recommended: bool


def _messages(url):
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=120).messages


def _calls(message):
    return [(block.name, block.input) for block in message.content if block.type == "tool_use"]


def a_whole_message(url, model):
    message = _messages(url).create(model=model, messages=MESSAGES, max_tokens=24, system="Be brief.")

    assert message.id.startswith("msg_")
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text
    assert message.stop_reason in STOPS
    assert message.usage.input_tokens > 0
    assert 0 < message.usage.output_tokens <= 24


def a_stream_adds_up_to_the_whole(url, model):
    request = {"model": model, "messages": MESSAGES, "max_tokens": 24, **GREEDY}
    whole = _messages(url).create(**request)
    with _messages(url).stream(**request) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()

    assert text == whole.content[0].text == message.content[0].text
    assert (message.stop_reason, message.usage) == (whole.stop_reason, whole.usage)


def a_stop_sequence_is_told(url, model):
    message = _messages(url).create(model=model, messages=MESSAGES, max_tokens=100, **GREEDY, stop_sequences=[" ", "e"])

    assert message.stop_reason == "stop_sequence"
    assert message.stop_sequence in (" ", "e")


def a_tool_that_must_be_called(url, model):
    for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}):
        request = {"model": model, "tool_choice": choice, **GREEDY, **ASKED}
        whole = _messages(url).create(**request)
        with _messages(url).stream(**request) as stream:
            message = stream.get_final_message()

        assert whole.stop_reason == message.stop_reason == "tool_use"
        assert _calls(whole) == _calls(message)
        assert _calls(whole)
        assert all(name == "weather" and set(values) == {"city"} for name, values in _calls(whole))


def the_model_may_choose(url, model):
    message = _messages(url).create(model=model, **GREEDY, **ASKED)

    assert (message.stop_reason == "tool_use") == bool(_calls(message))
    assert message.content


def the_result_of_a_tool_goes_back(url, model):
    first = _messages(url).create(model=model, tool_choice={"type": "any"}, **ASKED)
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "4 degrees"}
        for block in first.content
        if block.type == "tool_use"
    ]
    conversation = [
        *ASKED["messages"],
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": results},
    ]
    second = _messages(url).create(
        model=model, messages=conversation, tools=[TOOL], tool_choice={"type": "none"}, max_tokens=16
    )

    assert second.content[0].text


def a_parsed_message(url, model):
    message = _messages(url).parse(model=model, messages=MESSAGES, output_format=Review, max_tokens=60)

    assert isinstance(message.parsed_output, Review)


def the_count_of_tokens_is_what_the_message_uses(url, model):
    count = _messages(url).count_tokens(model=model, messages=MESSAGES, system="Be brief.")
    message = _messages(url).create(model=model, messages=MESSAGES, system="Be brief.", max_tokens=1)
    with_tools = _messages(url).count_tokens(model=model, messages=MESSAGES, system="Be brief.", tools=[TOOL])

    assert count.input_tokens == message.usage.input_tokens < with_tools.input_tokens


def errors_are_the_clients_own(url, model):
    for expected, request in {
        anthropic.NotFoundError: {"model": "other"},
        anthropic.BadRequestError: {"model": model, "extra_body": {"temperature": 3}},
    }.items():
        try:
            _messages(url).create(messages=MESSAGES, max_tokens=4, **request)
        except expected as error:
            assert error.body["type"] == "error"  # noqa: PT017  # pytest is not here
            assert error.body["error"]["message"]  # noqa: PT017  # pytest is not here
        else:
            raise AssertionError(f"no {expected.__name__}")


async def an_async_stream(url, model):
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        request = {"model": model, "messages": MESSAGES, "max_tokens": 16, **GREEDY}
        whole = await client.messages.create(**request)
        async with client.messages.stream(**request) as stream:
            text = "".join([text async for text in stream.text_stream])

    assert text == whole.content[0].text
