"""Chats over HTTP: tools, reasoning and grammars, streamed over a socket or not, as the engine runs them."""

import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from model.chat_template import ChatTemplate
from tests.api.api_parts import asking, build, events_of, served_model
from tests.fakes import FakeRunner, says
from tests.live_server import serve

PATH = "/v1/chat/completions"
USER = {"role": "user", "content": "hi"}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}
ODD: dict[str, Any] = {"type": "function", "function": {"name": "odd", "parameters": {"not": {}}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich 😀"}}\n</tool_call>'
SAID = f"<think>\nhm 数学\n</think>\n\nIch schaue… 🔎\n{CALL}\n{CALL}"
TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{% endfor %}{% if tools %}{{ tools | length }} tools{% endif %}"
    "{% if add_generation_prompt %}{{ '<think>\n' if enable_thinking else '>' }}{% endif %}"
)


def app_that_says(text: str, **limits: Any):
    runner = FakeRunner(says(text), max_model_len=512, num_blocks=1024, **limits)
    return build(runner, served=served_model(chat_template=ChatTemplate(TEMPLATE, {}), max_model_len=512))


async def chat(text: str, **fields: Any) -> dict[str, Any]:
    async with asking(app_that_says(text)) as client:
        answer = await client.post(PATH, json={"messages": [USER], **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]


async def refused(**fields: Any) -> dict[str, Any]:
    async with asking(app_that_says("x")) as client:
        answer = await client.post(PATH, json={"messages": [USER], **fields})
        assert answer.status_code == 400, answer.text
        return answer.json()["error"]


def called(choice: dict[str, Any]) -> list[tuple[str, Any]]:
    functions = [call["function"] for call in choice["message"].get("tool_calls", ())]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]


IN_ZURICH = ("weather", {"city": "Zürich 😀"})


async def test_what_the_model_calls_by_itself():
    choice = await chat(SAID, tools=[WEATHER])

    assert called(choice) == [IN_ZURICH] * 2
    assert choice["message"]["content"] == "Ich schaue… 🔎"
    assert choice["message"]["reasoning_content"] == "hm 数学"
    assert choice["finish_reason"] == "tool_calls"


async def test_without_tools_and_with_none_the_same_is_content():
    for fields in ({}, {"tools": []}, {"tools": [WEATHER], "tool_choice": "none"}):
        choice = await chat(SAID, **fields)
        assert choice["message"]["content"] == f"Ich schaue… 🔎\n{CALL}\n{CALL}"
        assert choice["finish_reason"] == "stop"


async def test_calls_one_by_one():
    assert called(await chat(SAID, tools=[WEATHER], parallel_tool_calls=False)) == [IN_ZURICH]


async def test_a_call_that_is_cut_stays_content():
    choice = await chat(CALL, tools=[WEATHER], max_tokens=20)

    assert choice["message"]["content"] == CALL[:20]
    assert choice["finish_reason"] == "length"


async def test_without_a_grammar_nothing_is_taken_for_a_call_before_it_is_one():
    said = CALL.replace("}}", ", }}")

    choice = await chat(said, tools=[WEATHER])
    assert choice["message"]["content"] == said
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("said", ["I had rather not.", CALL, ""])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_a_call_that_is_demanded_comes(said, choice):
    """The fake model says its text, or the next byte that is allowed."""
    answer = await chat(said, tools=[CLOCK, WEATHER], tool_choice=choice, parallel_tool_calls=False, max_tokens=400)

    if answer["finish_reason"] == "length":  # a string of the model's choice that it does not end
        assert answer["message"]["tool_calls"][0]["function"]["name"] == "weather"
    else:
        ((name, arguments),) = called(answer)
        assert answer["finish_reason"] == "tool_calls"
        assert name == "clock" or isinstance(arguments["city"], str)


async def test_reasoning_that_the_prompt_opened():
    choice = await chat("hm\n</think>\n\nYes", reasoning_effort="high")

    assert choice["message"] == {"role": "assistant", "content": "Yes", "refusal": None, "reasoning_content": "hm"}


async def test_a_grammar_begins_behind_reasoning():
    fields = {"response_format": {"type": "json_object"}, "max_tokens": 40}
    behind = await chat('hm {\n</think>\n\n{"a": 1}', reasoning_effort="high", **fields)
    alone = await chat('{"a": 1}', **fields)

    assert behind["message"]["reasoning_content"] == "hm {"
    assert [choice["message"]["content"] for choice in (behind, alone)] == ['{"a": 1}'] * 2


async def test_a_continuation_is_only_what_is_new():
    messages = [USER, {"role": "assistant", "content": "Well"}]
    choice = await chat("\n\n, yes", messages=messages, continue_final_message=True)

    assert choice["message"]["content"] == "\n\n, yes"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "returns": {}}}]}, "tools.0.function.returns"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"color": 1}}, "chat_template_kwargs.color"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"tools": [ODD], "tool_choice": "required"}, "tools.0.function.parameters"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_by_name(fields, param):
    assert (await refused(**fields))["param"] == param


@pytest.fixture(scope="module")
def live():
    with serve(app_that_says(SAID)) as server:
        yield server


@pytest.mark.parametrize("max_tokens", [None, 5, 20, 40, 60, 90, 120])
@pytest.mark.parametrize("tools", [None, [WEATHER]])
async def test_a_stream_over_a_socket_adds_up_to_the_answer(live, tools, max_tokens):
    body = {"messages": [USER], "tools": tools, "max_tokens": max_tokens, "n": 2}
    async with httpx.AsyncClient(base_url=live.url, timeout=30) as client:
        whole = (await client.post(PATH, json=body)).json()
        text = (await client.post(PATH, json=body | {"stream": True})).text

    *chunks, done = events_of(text)
    assert done == "[DONE]"
    for expected in whole["choices"]:
        parts = [json.loads(chunk)["choices"][0] for chunk in chunks]
        parts = [part for part in parts if part["index"] == expected["index"]]
        found = [part["delta"] for part in parts]
        for name in ("content", "reasoning_content"):
            told = "".join(delta.get(name) or "" for delta in found)
            assert told == (expected["message"].get(name) or "")
        calls = [call for delta in found for call in delta.get("tool_calls", ())]
        arguments = ["".join(call["function"]["arguments"] for call in calls if call["index"] == i) for i in (0, 1)]
        assert [text for text in arguments if text] == [
            call["function"]["arguments"] for call in expected["message"].get("tool_calls", ())
        ]
        assert parts[-1]["finish_reason"] == expected["finish_reason"]


class City(BaseModel):
    city: str


async def test_openai_s_own_client_reads_calls_and_models():
    with serve(app_that_says(CALL)) as server:
        client = AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-")
        messages: Any = [USER]
        strict: Any = [{"type": "function", "function": WEATHER["function"] | {"strict": True}}]
        parsed = await client.chat.completions.parse(model="fake", messages=messages, tools=strict)
        (call,) = parsed.choices[0].message.tool_calls or ()
        assert call.function.parsed_arguments == {"city": "Zürich 😀"}
        async with client.chat.completions.stream(model="fake", messages=messages, tools=strict) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].finish_reason == "tool_calls"
        assert (final.choices[0].message.tool_calls or ())[0].function.arguments == '{"city": "Zürich 😀"}'
        await client.close()
    with serve(app_that_says('{"city": "Genève"}')) as server:
        client = AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-")
        model = await client.chat.completions.parse(model="fake", messages=messages, response_format=City)
        assert model.choices[0].message.parsed == City(city="Genève")
        await client.close()
