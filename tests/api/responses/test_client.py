"""openai-python's `responses` as its users use it, over a real socket."""

import json
import threading
import time

import openai
import pytest

from tests.api.api_parts import build
from tests.api.chat_scripts import ARGUMENTS, SCHEMA, TEXT, Place, scripted
from tests.fakes import FakeRunner, fails_behind
from tests.live_server import serve

KEY = "sk-of-the-test"
TOOLS = [{"type": "function", "name": "look", "description": "Looks.", "parameters": SCHEMA}]


@pytest.fixture(scope="module")
def url():
    runner = FakeRunner(scripted, num_blocks=1024, max_model_len=1024, before_step=lambda _: time.sleep(0.001))
    with serve(build(runner, api_keys=[KEY])) as server:
        yield server.url + "/v1"


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=url, api_key=KEY, timeout=20, max_retries=0) as client:
        yield client


def test_a_response(client):
    response = client.responses.create(
        model="fake", input="hi", instructions="Be kind.", temperature=0.5, metadata={"a": "b"}, store=False
    )

    assert response.output_text == TEXT
    assert [item.type for item in response.output] == ["message"]
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    assert (response.model, response.instructions, response.metadata) == ("fake", "Be kind.", {"a": "b"})
    assert (response.temperature, response.top_p, response.tool_choice, response.tools) == (0.5, 1.0, "auto", [])
    assert response.store is False
    assert response.usage.input_tokens == len("system: Be kind.\nuser: hi\nassistant: ")
    assert response.usage.output_tokens == len(TEXT.encode()) + 1
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.usage.output_tokens_details.reasoning_tokens == 0
    assert response.id == f"resp_{response._request_id}"


def test_reasoning_is_an_item_of_its_own(client):
    response = client.responses.create(model="fake", input="think", reasoning={"summary": "auto"})

    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output[0].content[0].text == f"Hm, {TEXT}"
    assert response.output_text == TEXT
    assert response.usage.output_tokens_details.reasoning_tokens == len(f"<think>\nHm, {TEXT}".encode())


def test_the_events_of_a_stream(client):
    events = list(client.responses.create(model="fake", input="look", tools=TOOLS, stream=True))

    assert [event.sequence_number for event in events] == list(range(len(events)))
    types = [event.type for event in events]
    assert list(dict.fromkeys(types)) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.completed",
    ]
    assert types.count("response.created") == types.count("response.in_progress") == 1
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert events[-1].response.output == done
    assert [item.status for item in done] == ["completed"] * 3
    added = [event.item for event in events if event.type == "response.output_item.added"]
    assert [item.id for item in added] == [item.id for item in done]
    assert [item.status for item in added] == ["in_progress"] * 3
    assert events[0].response.status == "in_progress"
    assert events[0].response.usage is None


def test_the_streaming_helper(client):
    whole = client.responses.create(model="fake", input="think")
    with client.responses.stream(model="fake", input="think") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        response = stream.get_final_response()

    assert text == response.output_text == TEXT
    assert [(item.type, item.content[0].text) for item in response.output] == [
        (item.type, item.content[0].text) for item in whole.output
    ]
    assert response.usage == whole.usage


def test_a_round_of_tools(client):
    conversation = [{"role": "user", "content": "look"}]
    first = client.responses.create(model="fake", input=conversation, tools=TOOLS, tool_choice="auto")

    assert [item.type for item in first.output] == ["reasoning", "message", "function_call"]
    call = first.output[2]
    assert (call.name, json.loads(call.arguments)) == ("look", ARGUMENTS)
    assert first.tools[0].name == "look"

    conversation += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": "red"}]
    second = client.responses.create(model="fake", input=conversation, tools=TOOLS)
    assert second.output_text == "It is red."


def test_two_calls_in_a_stream(client):
    with client.responses.stream(model="fake", input="look twice", tools=TOOLS) as stream:
        pieces = [event for event in stream if event.type == "response.function_call_arguments.delta"]
        response = stream.get_final_response()

    assert [item.type for item in response.output] == ["function_call", "function_call"]
    assert response.output[0].call_id != response.output[1].call_id
    for index in (0, 1):
        assert (
            "".join(event.delta for event in pieces if event.output_index == index) == response.output[index].arguments
        )
        assert json.loads(response.output[index].arguments) == ARGUMENTS


def test_a_response_in_a_form(client):
    assert client.responses.parse(model="fake", input="write", text_format=Place).output_parsed == Place(at="here")
    with client.responses.stream(model="fake", input="write", text_format=Place) as stream:
        assert stream.get_final_response().output_parsed == Place(at="here")


def test_a_tool_that_must_be_called(client):
    tools = [TOOLS[0] | {"strict": True}]
    choice = {"type": "function", "name": "look"}
    with client.responses.stream(model="fake", input="call", tools=tools, tool_choice=choice) as stream:
        response = stream.get_final_response()

    assert [(item.type, item.parsed_arguments) for item in response.output] == [("function_call", ARGUMENTS)]


@pytest.mark.parametrize("streams", [False, True])
def test_a_response_that_is_cut_short(client, streams):
    answer = client.responses.create(model="fake", input="red", max_output_tokens=5, stream=streams)
    response = list(answer)[-1].response if streams else answer

    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert [(item.status, item.content[0].text) for item in response.output] == [("incomplete", "It is")]


def test_log_probabilities(client):
    asked = {"model": "fake", "input": "red", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = client.responses.create(**asked).output[0].content[0]
    events = list(client.responses.create(**asked, stream=True))

    assert "".join(entry.token for entry in whole.logprobs) == whole.text
    assert [len(entry.top_logprobs) for entry in whole.logprobs] == [2] * len(whole.text)
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [entry.token for event in deltas for entry in event.logprobs] == [entry.token for entry in whole.logprobs]


async def test_the_asynchronous_client(url):
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, timeout=20, max_retries=0) as client:
        async with client.responses.stream(model="fake", input="hi") as stream:
            assert (await stream.get_final_response()).output_text == TEXT
        assert (await client.responses.create(model="fake", input="red")).output_text == "It is red."


def test_errors_come_as_the_clients_own(client):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="other", input="hi")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as stored:
        client.responses.create(model="fake", input="hi", previous_response_id="resp_1")
    assert stored.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError) as no_tools:
        client.responses.create(model="fake", input="hi", tool_choice="required")
    assert no_tools.value.param == "tool_choice"


def test_a_failure_in_a_stream_is_its_last_event():
    may_fail = threading.Event()
    with (
        serve(build(FakeRunner(fails_behind(3, may_fail)))) as server,
        openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0) as client,
    ):
        events = iter(client.responses.create(model="fake", input="a", stream=True, max_output_tokens=20))
        assert next(events).type == "response.created"
        may_fail.set()
        last = list(events)[-1]
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert last.response.error.code == "server_error"
    assert "The model failed" in last.response.error.message
    assert last.response.output[0].content[0].text == "aaa"
