"""One request in, one record out: against a server of scripted answers."""

from dataclasses import replace
from typing import Any

import pytest

from app.bench.client import Client, Clock
from app.bench.connection import Lost
from app.bench.records import Ask, Failure, Record, RunSettings
from tests.bench.scripted_server import CHUNKED, Raw, Script, ScriptedServer, Stream, event, page, scripted
from tests.bench.virtual_time import in_virtual_time

ASK = Ask(number=5, prompt="hello", num_prompt_tokens=3, max_tokens=4)


async def asked(script: Script | Stream | Raw, ask: Ask = ASK, **settings: Any) -> tuple[Record, ScriptedServer]:
    async with scripted(script) as server, Client(RunSettings(server.url, "m", **settings)) as client:
        clock = Clock.start()
        return await client.ask(ask, clock, clock.now()), server


async def body_of(ask: Ask = ASK, **settings: Any) -> dict[str, Any]:
    _, server = await asked(Stream([0.0]), ask, **settings)
    return server.exchanges[0].body


@in_virtual_time
async def test_a_record_has_what_was_counted_and_kept() -> None:
    record, _ = await asked(Stream([0.01, 0.02, 0.01], prompt_tokens=9), replace(ASK, keep_text=True))
    assert (record.number, record.prompt_tokens, record.output_tokens, record.text) == (5, 9, 3, "xxx")
    assert record.is_completed
    assert record.first is not None
    assert 0 <= record.scheduled <= record.sent < record.first < record.ended
    assert len(record.gaps) == 2
    assert record.first + sum(record.gaps) == pytest.approx(record.ended)


@in_virtual_time
async def test_a_completion_is_asked_as_the_api_has_it() -> None:
    assert await body_of() == {
        "model": "m",
        "prompt": "hello",
        "max_tokens": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
    }


@in_virtual_time
async def test_settings_and_the_request_itself_are_in_the_body() -> None:
    settings = {"ignore_eos": True, "extra_body": {"top_k": 3}, "temperature": None}
    body = await body_of(replace(ASK, prompt=(1, 2), seed=7, temperature=0.5), **settings)
    assert (body["prompt"], body["seed"], body["temperature"], body["top_k"], body["ignore_eos"]) == (
        [1, 2],
        7,
        0.5,
        3,
        True,
    )
    assert "temperature" not in await body_of(temperature=None)


@in_virtual_time
async def test_a_text_is_a_chats_only_message_and_messages_are_sent_as_they_are() -> None:
    assert (await body_of(endpoint="chat"))["messages"] == [{"role": "user", "content": "hello"}]
    messages = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"})
    assert (await body_of(replace(ASK, prompt=messages), endpoint="chat"))["messages"] == list(messages)


@in_virtual_time
async def test_headers_and_key_are_sent_to_the_endpoints_path() -> None:
    _, server = await asked(Stream([0.0]), api_key="secret", headers=(("X-Team", "red"),), path="/api/completions")
    head = server.exchanges[0].head
    assert head.startswith("POST /api/completions HTTP/1.1")
    assert "Authorization: Bearer secret" in head
    assert "X-Team: red" in head


def test_a_key_is_not_shown_with_the_settings() -> None:
    assert "secret" not in repr(RunSettings("http://localhost", "m", api_key="secret"))


@in_virtual_time
async def test_a_cancelled_request_hangs_up_and_is_no_failure() -> None:
    record, server = await asked(Stream([0.0] * 3 + [30.0]), replace(ASK, cancel_after=2))
    assert (record.is_cancelled, record.is_completed, record.failure) == (True, False, None)
    assert len(record.gaps) == 1


@in_virtual_time
async def test_after_hanging_up_another_connection_is_used() -> None:
    answers = [Stream([0.0, 0.0, 0.1]), Stream([0.0])]
    async with scripted(answers.__getitem__) as server, Client(RunSettings(server.url, "m")) as client:
        clock = Clock.start()
        await client.ask(replace(ASK, cancel_after=1), clock, clock.now())
        record = await client.ask(replace(ASK, keep_text=True), clock, clock.now())
    assert (record.failure, record.text, server.num_connections) == (None, "x", 2)


@in_virtual_time
async def test_an_answer_that_does_not_end_in_time_is_a_timeout() -> None:
    record, _ = await asked(Stream([0.0, 30.0]), timeout=0.1)
    assert (record.failure, record.message) == (Failure.TIMEOUT, "no end of the answer after 0.1 s")
    assert record.ended >= 0.1


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (page("429 Too Many Requests", b'{"error": {"message": "full"}}'), Failure.REFUSED),
        (page("200 OK", b"data: nonsense\n\n"), Failure.NONSENSE),
        (Raw(b"220 smtp ready\r\n"), Failure.NONSENSE),
        (Raw(b""), Failure.UNREACHABLE),
        (Raw(CHUNKED + b"%x\r\n" % len(event("a")) + event("a") + b"\r\n"), Failure.BROKEN),
        (Stream([0.0], tail=()), Failure.BROKEN),
        (Stream([0.0], tail=(b"data: [DONE]\n\n",)), Failure.NO_USAGE),
    ],
)
@in_virtual_time
async def test_a_server_that_fails_gives_a_record_that_says_how(answer: Raw | Stream, failure: Failure) -> None:
    record, _ = await asked(answer)
    assert record.failure is failure
    assert record.message
    assert not record.is_completed


@in_virtual_time
async def test_after_a_failure_the_next_request_is_answered() -> None:
    answers = [Raw(b"nonsense\r\n"), Stream([0.0, 30.0]), Stream([0.0])]
    async with scripted(answers.__getitem__) as server, Client(RunSettings(server.url, "m", timeout=0.1)) as client:
        clock = Clock.start()
        records = [await client.ask(ASK, clock, clock.now()) for _ in answers]
    assert [record.failure for record in records] == [Failure.NONSENSE, Failure.TIMEOUT, None]


@in_virtual_time
async def test_an_answer_that_is_not_streamed_has_no_first_token() -> None:
    body = b'{"choices": [{"text": "hi"}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}'
    record, server = await asked(page("200 OK", body), is_streamed=False)
    assert (record.is_completed, record.first, record.gaps, record.output_tokens) == (True, None, (), 2)
    assert "stream_options" not in server.exchanges[0].body


@in_virtual_time
async def test_a_page_that_does_not_come_is_lost() -> None:
    async with scripted(Raw(b"", closes=False)) as server, Client(RunSettings(server.url, "m")) as client:
        with pytest.raises(Lost, match="no answer after 0.05 s"):
            await client.fetch("/tokenize", {}, timeout=0.05)
        assert (await client.fetch("/metrics")).status == 404
