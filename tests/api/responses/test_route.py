"""POST /v1/responses, in process: what the SDK does not show."""

import json

import pytest

from tests.api.api_parts import asking, build
from tests.api.chat_scripts import TEXT, scripted
from tests.fakes import FakeRunner

BODY = {"model": "fake", "input": "think"}


@pytest.fixture
async def client():
    async with asking(build(FakeRunner(scripted, num_blocks=256, max_model_len=512))) as client:
        yield client


async def test_the_whole_answer(client):
    answer = await client.post("/v1/responses", json=BODY, headers={"x-request-id": "mine"})

    told = answer.json()
    assert told["id"] == "resp_mine"
    assert told["completed_at"] >= told["created_at"]
    assert told["output"] == [
        {
            "id": "rs_mine_0",
            "type": "reasoning",
            "status": "completed",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": f"Hm, {TEXT}"}],
            "encrypted_content": None,
        },
        {
            "id": "msg_mine_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}],
        },
    ]
    assert "request-id" not in answer.headers


async def test_what_was_asked_for_stands_in_the_answer(client):
    format = {"type": "text"}
    tool = {
        "type": "function",
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object"},
        "strict": None,
    }
    asked = {
        "instructions": "Be kind.",
        "max_output_tokens": 99,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "temperature": 0.25,
        "text": {"format": format},
        "tool_choice": "none",
        "tools": [tool],
        "top_p": 0.5,
    }
    told = (await client.post("/v1/responses", json=BODY | asked)).json()

    assert {name: told[name] for name in asked} == asked
    assert (told["store"], told["background"], told["previous_response_id"]) == (False, False, None)
    assert told["reasoning"] == {"effort": None, "summary": None}


async def test_a_stream_is_named_events_in_ascii(client):
    whole = (await client.post("/v1/responses", json=BODY, headers={"x-request-id": "mine"})).json()
    answer = await client.post("/v1/responses", json=BODY | {"stream": True}, headers={"x-request-id": "mine"})

    assert answer.text.isascii()
    *events, end = answer.text.split("\n\n")
    assert end == ""
    last = {}
    for number, event in enumerate(events):
        name, data = event.split("\n")
        last = json.loads(data.removeprefix("data: "))
        assert (last["type"], last["sequence_number"]) == (name.removeprefix("event: "), number)
    times = ("created_at", "completed_at")
    assert {k: v for k, v in last["response"].items() if k not in times} == {
        k: v for k, v in whole.items() if k not in times
    }


async def test_an_error_has_openais_shape(client):
    answer = await client.post("/v1/responses", json=BODY | {"store": True})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "store"
