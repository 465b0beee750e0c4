"""POST /v1/messages and its count, in process: what the SDK does not show."""

import json

import pytest

from tests.api.api_parts import LinesTemplate, asking, build, served_model
from tests.api.chat_scripts import TEXT, scripted
from tests.fakes import FakeRunner

BODY = {"model": "fake", "max_tokens": 100, "messages": [{"role": "user", "content": "think"}]}


@pytest.fixture
async def client():
    async with asking(build(FakeRunner(scripted, num_blocks=256, max_model_len=512))) as client:
        yield client


async def test_the_whole_answer(client):
    answer = await client.post("/v1/messages", json=BODY, headers={"x-request-id": "mine"})

    assert answer.json() == {
        "id": "msg_mine",
        "type": "message",
        "role": "assistant",
        "model": "fake",
        "content": [
            {"type": "thinking", "thinking": f"Hm, {TEXT}", "signature": ""},
            {"type": "text", "text": TEXT},
        ],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": len("user: think\nassistant: "),
            "output_tokens": len(f"<think>\nHm, {TEXT}\n</think>\n\n{TEXT}".encode()) + 1,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens_details": {"thinking_tokens": len(f"<think>\nHm, {TEXT}".encode())},
        },
    }
    assert answer.headers["request-id"] == answer.headers["x-request-id"] == "mine"


async def test_a_stream_is_named_events_in_ascii(client):
    answer = await client.post("/v1/messages", json=BODY | {"stream": True})

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.isascii()
    *events, end = answer.text.split("\n\n")
    assert end == ""
    for event in events:
        name, data = event.split("\n")
        assert json.loads(data.removeprefix("data: "))["type"] == name.removeprefix("event: ")


async def test_a_count(client):
    answer = await client.post("/v1/messages/count_tokens", json={"messages": BODY["messages"]})

    assert answer.json() == {"input_tokens": len("user: think\nassistant: ")}


@pytest.mark.parametrize(
    ("path", "body", "status", "type", "message"),
    [
        ("/v1/messages", BODY | {"model": "other"}, 404, "not_found_error", "There is no such model"),
        ("/v1/messages", BODY | {"max_tokens": 0}, 400, "invalid_request_error", "max_tokens: "),
        ("/v1/messages", BODY | {"max_tokens": 512}, 400, "invalid_request_error", "The prompt has"),
        ("/v1/messages", BODY | {"tool_choice": {"type": "any"}}, 400, "invalid_request_error", "tool_choice: needs"),
        ("/v1/messages/count_tokens", {"messages": []}, 400, "invalid_request_error", "messages: "),
        ("/v1/messages/other", {}, 404, "not_found_error", "There is no such route"),
    ],
)
async def test_errors_have_anthropics_shape(client, path, body, status, type, message):
    answer = await client.post(path, json=body)

    assert answer.status_code == status
    told = answer.json()
    assert told["type"] == "error"
    assert told["error"]["type"] == type
    assert told["error"]["message"].startswith(message)
    assert told["request_id"] == answer.headers["request-id"]


async def test_a_stranger_is_told_so_in_it():
    async with asking(build(api_keys=["key"])) as client:
        answer = await client.post("/v1/messages", json=BODY)

    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")


async def test_so_is_who_meets_an_error_that_nobody_foresaw():
    class Broken(LinesTemplate):
        def render(self, *_, **__):
            raise RuntimeError

    async with asking(build(served=served_model(chat_template=Broken())), raise_app_exceptions=False) as client:
        answer = await client.post("/v1/messages", json=BODY)

    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "api_error")
    assert answer.json()["request_id"] == answer.headers["request-id"]


async def test_only_these_routes_have_it(client):
    answer = await client.post("/v1/messages-of-others", json={})

    assert "request-id" not in answer.headers
    assert answer.json()["error"]["code"] == "not_found"


async def test_a_thread_is_refused_as_the_sdk_understands_it(client):
    answer = await client.post("/v1/messages", json=BODY | {"thread": {"type": "create"}})

    assert answer.status_code == 400
    assert answer.json()["error"]["details"] == {"error_code": "thread_unsupported_request"}
