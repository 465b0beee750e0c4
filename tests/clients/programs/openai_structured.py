"""openai-python: answers parsed into pydantic models, and tools.

The types have few values each, so that a small model comes to an end of them.
"""

import json
from typing import Literal

import openai
from pydantic import BaseModel, Field


class Review(BaseModel):
    mood: Literal["good", "bad", "mixed"]
    stars: int = Field(ge=1, le=5)
    recommended: bool


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "Oslo", "Rome"]
    unit: Literal["celsius", "fahrenheit"]


class Clock(BaseModel):
    """The time in a zone."""

    zone: Literal["UTC", "CET"]


MESSAGES = [{"role": "user", "content": "Review: the film was long, but I would see it again."}]
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOLS = [openai.pydantic_function_tool(Weather, name="weather"), openai.pydantic_function_tool(Clock, name="clock")]
KINDS = {"weather": Weather, "clock": Clock}
ASKED = {"messages": QUESTION, "tools": TOOLS, "max_tokens": 80, "temperature": 0}
NAMED = {"type": "function", "function": {"name": "clock"}}


def _completions(url):
    return openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=120).chat.completions


def _calls(message):
    return [(call.function.name, call.function.arguments) for call in message.tool_calls]


def a_parsed_answer(url, model):
    answer = _completions(url).parse(
        model=model, messages=MESSAGES, response_format=Review, max_tokens=60, temperature=0
    )

    assert isinstance(answer.choices[0].message.parsed, Review)
    assert answer.choices[0].message.refusal is None
    assert answer.choices[0].finish_reason == "stop"


def a_streamed_parsed_answer(url, model):
    request = {"model": model, "messages": MESSAGES, "response_format": Review, "max_tokens": 60, "temperature": 0}
    whole = _completions(url).parse(**request).choices[0].message.parsed
    with _completions(url).stream(**request) as stream:
        done = [event.parsed for event in stream if event.type == "content.done"]

    assert done == [whole]


def a_json_object(url, model):
    answer = _completions(url).create(
        model=model,
        messages=[{"role": "user", "content": 'Answer in JSON, as {"a": 1}.'}],
        response_format={"type": "json_object"},
        logit_bias={},
        max_tokens=400,
        temperature=0,
    )

    assert answer.choices[0].finish_reason in ("stop", "length")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    else:
        assert answer.choices[0].message.content.startswith("{")


def a_required_tool(url, model):
    choice = _completions(url).create(model=model, tool_choice="required", **ASKED).choices[0]

    assert choice.finish_reason == "tool_calls"
    for name, arguments in _calls(choice.message):
        KINDS[name].model_validate_json(arguments)
    assert all(call.id and call.type == "function" for call in choice.message.tool_calls)


def a_named_tool(url, model):
    choice = _completions(url).create(model=model, tool_choice=NAMED, **ASKED).choices[0]

    (call,) = _calls(choice.message)
    assert call[0] == "clock"
    Clock.model_validate_json(call[1])
    assert choice.finish_reason in ("tool_calls", "stop")


def a_parsed_tool_call(url, model):
    answer = _completions(url).parse(model=model, tool_choice="required", **ASKED)

    for call in answer.choices[0].message.tool_calls:
        assert isinstance(call.function.parsed_arguments, KINDS[call.function.name])


def the_model_may_choose(url, model):
    choice = _completions(url).parse(model=model, **ASKED).choices[0]

    assert (choice.finish_reason == "tool_calls") == bool(choice.message.tool_calls)
    assert choice.message.tool_calls or choice.message.content


def no_tool_when_none_is_wanted(url, model):
    choice = _completions(url).create(model=model, tool_choice="none", **ASKED).choices[0]

    assert choice.message.tool_calls is None
    assert choice.message.content


def streamed_tool_calls_add_up_to_the_whole(url, model):
    for tool_choice in ("required", NAMED, "auto"):
        request = {"model": model, "tool_choice": tool_choice, **ASKED}
        whole = _completions(url).create(**request).choices[0]
        streamed = {}
        for chunk in _completions(url).create(stream=True, **request):
            for call in chunk.choices[0].delta.tool_calls or []:
                entry = streamed.setdefault(call.index, ["", ""])
                entry[0] += call.function.name or ""
                entry[1] += call.function.arguments or ""
            finish_reason = chunk.choices[0].finish_reason

        assert list(map(tuple, streamed.values())) == (_calls(whole.message) if whole.message.tool_calls else [])
        assert finish_reason == whole.finish_reason


def the_streaming_helper_parses_tool_calls(url, model):
    with _completions(url).stream(model=model, tool_choice="required", **ASKED) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()

    assert [event.name for event in done] == [call.function.name for call in final.choices[0].message.tool_calls]
    assert all(isinstance(event.parsed_arguments, KINDS[event.name]) for event in done)


def the_result_of_a_tool_goes_back(url, model):
    asked = _completions(url).create(model=model, tool_choice="required", **ASKED).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "21 degrees"} for call in asked.tool_calls]
    answer = _completions(url).create(
        model=model, messages=[*QUESTION, asked, *results], tools=TOOLS, tool_choice="none", max_tokens=16
    )

    assert answer.choices[0].message.content
