"""openai-python: /v1/responses."""

import json
from typing import Literal

import openai
from pydantic import BaseModel

INPUT = "Name three colours of autumn leaves."
COLOURS = {
    "type": "object",
    "properties": {"colours": {"type": "array", "items": {"enum": ["red", "gold"]}, "minItems": 1, "maxItems": 3}},
    "required": ["colours"],
    "additionalProperties": False,
}
# With an end to it: the streaming helper takes no response that is cut short.
FORM = {"format": {"type": "json_schema", "name": "colours", "strict": True, "schema": COLOURS}}
TOOL = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


class Review(BaseModel):
    mood: Literal["good", "bad"]
    recommended: bool


def _responses(url):
    return openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=120).responses


def _calls(response):
    return [(item.name, json.loads(item.arguments)) for item in response.output if item.type == "function_call"]


def a_whole_response(url, model):
    response = _responses(url).create(model=model, input=INPUT, instructions="Be brief.", max_output_tokens=200)

    assert response.id.startswith("resp_")
    assert response.output_text
    assert response.status in ("completed", "incomplete")
    assert (response.incomplete_details is None) == (response.status == "completed")
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def a_stream_adds_up_to_the_whole(url, model):
    request = {"model": model, "input": INPUT, "max_output_tokens": 24, "temperature": 0}
    whole = _responses(url).create(**request)
    events = list(_responses(url).create(stream=True, **request))

    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text == events[-1].response.output_text
    assert events[-1].type == f"response.{whole.status}"


def the_streaming_helper_sees_the_same(url, model):
    request = {"model": model, "input": INPUT, "text": FORM, "temperature": 0}
    whole = _responses(url).create(**request)
    with _responses(url).stream(**request) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text == whole.output_text
    assert whole.status == "completed"


def a_parsed_response(url, model):
    request = {"model": model, "input": "I liked it.", "text_format": Review, "max_output_tokens": 60}
    assert isinstance(_responses(url).parse(**request).output_parsed, Review)
    with _responses(url).stream(**request) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Review)


def a_tool_that_must_be_called(url, model):
    request = {"model": model, "input": "The weather in Oslo?", "tools": [TOOL], "max_output_tokens": 80}
    for choice in ("required", {"type": "function", "name": "weather"}):
        whole = _responses(url).create(tool_choice=choice, temperature=0, **request)
        with _responses(url).stream(tool_choice=choice, temperature=0, **request) as stream:
            streamed = stream.get_final_response()

        assert _calls(whole)
        assert _calls(streamed) == _calls(whole)
        assert all(name == "weather" and values["city"] in ("Paris", "Oslo") for name, values in _calls(whole))


def the_result_of_a_tool_goes_back(url, model):
    conversation = [{"role": "user", "content": "The weather in Oslo?"}]
    first = _responses(url).create(
        model=model, input=conversation, tools=[TOOL], tool_choice="required", max_output_tokens=80
    )
    calls = [item for item in first.output if item.type == "function_call"]
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "4 degrees"} for call in calls]
    second = _responses(url).create(
        model=model,
        input=[*conversation, *first.output, *results],
        tools=[TOOL],
        tool_choice="none",
        max_output_tokens=16,
    )

    assert second.output_text


async def an_async_response(url, model):
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        request = {"model": model, "input": INPUT, "text": FORM, "temperature": 0}
        whole = await client.responses.create(**request)
        async with client.responses.stream(**request) as stream:
            assert (await stream.get_final_response()).output_text == whole.output_text
