"""Streams at the other end of a socket: they add up to the answer, come as the tokens do, and end whatever happens."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.api.api_parts import asking, build, build_with_engine, events_of
from tests.fakes import FakeRunner, NextToken, says
from tests.live_server import serve

EVERY_TEXT = 'plain, "quoted", back\\slash, new\nline, tab\t, é, 世界, 👩‍🚀, \u2028 and \x7f, <eos> spelt out'


def paced(next_token, **limits) -> FakeRunner:
    """Slow enough that tokens come one by one."""
    return FakeRunner(next_token, before_step=lambda _: time.sleep(0.001), **limits)


def held_after_the_first_token(next_token, gate: threading.Event) -> FakeRunner:
    def wait(batch) -> None:
        if batch.chunks and not batch.opened:
            assert gate.wait(20)

    return FakeRunner(next_token, before_step=wait)


@asynccontextmanager
async def streaming(url: str, path: str, body: dict) -> AsyncIterator[httpx.Response]:
    async with (
        httpx.AsyncClient(base_url=url, timeout=30) as client,
        client.stream("POST", path, json=body | {"stream": True}) as answer,
    ):
        assert answer.status_code == 200
        yield answer


async def stream_of(url: str, path: str, body: dict) -> tuple[httpx.Headers, str]:
    async with streaming(url, path, body) as answer:
        return answer.headers, (await answer.aread()).decode("ascii")


@pytest.fixture(scope="module")
def live():
    runner = paced(says(EVERY_TEXT), max_model_len=512, num_blocks=1024)
    with serve(build(runner)) as server:
        yield server


@pytest.mark.parametrize("stop", [None, "👩", "世界", ["\u2028", "spelt"], "\t, é", "never said"])
@pytest.mark.parametrize("max_tokens", [200, 60, 61, 62, 63])
async def test_a_stream_adds_up_to_the_answer(live, stop, max_tokens):
    body = {"prompt": "a", "max_tokens": max_tokens, "stop": stop, "logprobs": 1, "return_token_ids": True}
    options = {"stream_options": {"include_usage": True}}
    async with httpx.AsyncClient(timeout=30) as client:
        whole = (await client.post(live.url + "/v1/completions", json=body)).json()
    _, text = await stream_of(live.url, "/v1/completions", body | options)

    *parts, last, done = events_of(text)
    choices = [json.loads(part)["choices"][0] for part in parts]
    expected = whole["choices"][0]
    assert "".join(choice["text"] for choice in choices) == expected["text"]
    assert [token_id for choice in choices for token_id in choice["token_ids"]] == expected["token_ids"]
    for name, values in expected["logprobs"].items():
        assert [value for choice in choices for value in choice["logprobs"][name]] == values
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert {name: choices[-1][name] for name in ("finish_reason", "stop_reason")} == {
        name: expected[name] for name in ("finish_reason", "stop_reason")
    }
    assert json.loads(last)["choices"] == []
    assert json.loads(last)["usage"] == whole["usage"]
    assert done == "[DONE]"


async def test_the_headers_let_nothing_hold_the_stream_back(live):
    headers, _ = await stream_of(live.url, "/v1/completions", {"prompt": "a"})

    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-request-id"]


async def test_a_chat_brings_its_role_with_its_first_text(live):
    body = {"messages": [{"role": "user", "content": "a"}]}
    _, text = await stream_of(live.url, "/v1/chat/completions", body)

    deltas = [json.loads(part)["choices"][0]["delta"] for part in events_of(text)[:-1]]
    assert deltas[0]["role"] == "assistant"
    assert deltas[0]["content"]
    assert all("role" not in delta for delta in deltas[1:])
    assert "".join(delta.get("content", "") for delta in deltas) == EVERY_TEXT
    assert "usage" not in text


async def test_the_end_is_written_at_once():
    """The last chunk, the usage and [DONE] are one message to the server, so that they travel together."""
    sent: list[bytes] = []
    app = build(FakeRunner(says("ab")))
    body = {"prompt": "a", "max_tokens": 9, "stream": True, "stream_options": {"include_usage": True}}

    async def recording(scope, receive, send):
        async def record(message):
            sent.append(message.get("body", b""))
            await send(message)

        await app(scope, receive, record)

    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(recording)) as client:
        await client.post("http://app/v1/completions", json=body)

    assert b'"finish_reason":"stop"' in sent[-1]
    assert sent[-1].endswith(b"data: [DONE]\n\n")
    assert b'"choices":[],"usage"' in sent[-1]


async def test_choices_interleave():
    gate = threading.Event()
    runner = held_after_the_first_token(lambda tokens, num_prompt: 97 + tokens[0], gate)
    body = {"prompt": [[1], [2]], "n": 2, "max_tokens": 20}
    text = ""
    with serve(build(runner)) as server:
        async with streaming(server.url, "/v1/completions", body) as answer:
            async for part in answer.aiter_text():
                text += part
                gate.set()

    choices = [json.loads(part)["choices"][0] for part in events_of(text)[:-1]]
    for index in range(4):
        own = [choice for choice in choices if choice["index"] == index]
        assert "".join(choice["text"] for choice in own) == ("b" if index < 2 else "c") * 20
        assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + ["length"]
    assert [choice["index"] for choice in choices[:5]] == [0, 1, 2, 3, 0]


async def test_only_silence_is_broken_by_comments():
    gate = threading.Event()
    received = ""
    with serve(build(held_after_the_first_token(says("ab"), gate), ping_after_s=0.3)) as server:
        async with streaming(server.url, "/v1/completions", {"prompt": "a", "max_tokens": 9}) as answer:
            async for text in answer.aiter_text():
                received += text
                if received.count(": ping\n\n") == 2:
                    gate.set()

    assert received.startswith("data: ")  # the first token came without silence before it
    assert ": ping\n\n: ping\n\n" in received
    assert received.count(": ping") < 6  # each after a silence of its own
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events_of(received)[:-1]) == "ab"


async def test_a_long_wait_for_the_first_token_is_bridged_by_comments():
    gate = threading.Event()
    with serve(build(FakeRunner(says("a"), before_step=lambda _: gate.wait(20)), ping_after_s=0.05)) as server:
        async with streaming(server.url, "/v1/completions", {"prompt": "a", "max_tokens": 9}) as answer:
            parts = answer.aiter_text()
            assert (await anext(parts)).startswith(": ping\n\n")
            gate.set()
            rest = "".join([part async for part in parts])

    assert rest.endswith("data: [DONE]\n\n")


def fails_at(num_tokens: int) -> NextToken:
    def next_token(token_ids, num_prompt_tokens):
        if len(token_ids) - num_prompt_tokens == num_tokens:
            raise ArithmeticError("a secret of the model")
        return 97

    return next_token


@pytest.mark.parametrize("stream", [True, False])
async def test_a_failure_before_the_first_token_has_a_status(stream):
    async with asking(build(FakeRunner(fails_at(0)))) as client:
        answer = await client.post("/v1/completions", json={"prompt": "a", "stream": stream})

    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "ArithmeticError" in answer.json()["error"]["message"]
    assert "secret" not in answer.text


async def test_a_failure_in_a_stream_ends_it_with_an_error_and_the_server_goes_on():
    gate = threading.Event()
    text = ""
    with serve(build(held_after_the_first_token(fails_at(4), gate))) as server:
        async with streaming(server.url, "/v1/completions", {"prompt": "a"}) as answer:
            async for part in answer.aiter_text():
                text += part
                gate.set()
        _, next_text = await stream_of(server.url, "/v1/completions", {"prompt": "a", "max_tokens": 3})

    *parts, error = events_of(text)
    assert "aaaa".startswith("".join(json.loads(part)["choices"][0]["text"] for part in parts))
    assert set(json.loads(error)) == {"error"}
    assert json.loads(error)["error"]["type"] == "server_error"
    assert next_text.endswith("data: [DONE]\n\n")


async def test_a_whole_answer_fails_with_any_of_its_choices():
    async with asking(build(FakeRunner(fails_at(4)))) as client:
        answer = await client.post("/v1/completions", json={"prompt": "a", "n": 2})

    assert answer.status_code == 500


async def test_streams_that_are_open_when_the_engine_stops_hear_of_it():
    endless = paced(lambda tokens, num_prompt: 97, max_model_len=100_000, num_blocks=50_000)
    app, engine = build_with_engine(endless)
    with serve(app) as server:
        async with streaming(server.url, "/v1/completions", {"prompt": "a", "max_tokens": 90_000}) as answer:
            parts = answer.aiter_text()
            received = await anext(parts)
            await asyncio.to_thread(engine.stop)
            received += "".join([part async for part in parts])

    *_, last = events_of(received)
    assert "shutting down" in json.loads(last)["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_the_end_of_the_server_cuts_before_its_first_token_may_be_sent_again(stream):
    reached, gate = threading.Event(), threading.Event()

    def hold(_batch):
        reached.set()
        assert gate.wait(10)

    app, engine = build_with_engine(FakeRunner(before_step=hold, max_model_len=4096, num_blocks=4096))
    body = {"prompt": "a" * 2000, "max_tokens": 2, "stream": stream}  # read over several steps
    async with asking(app) as client:
        answering = asyncio.create_task(client.post("/v1/completions", json=body))
        await asyncio.to_thread(reached.wait, 10)
        stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
        while engine.is_alive:
            await asyncio.sleep(0)
        gate.set()
        await stopping
        answer = await answering

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "shutting down" in answer.json()["error"]["message"]
