"""Adapters as models of their own: a request names one, and its slot is opened with it."""

import asyncio
import threading

import httpx
import pytest

from app.api.served import ServedAdapter
from model.batch import Batch
from tests.api.api_parts import asking, build, events_of, served_model
from tests.fakes import FakeRunner

ADAPTERS = (ServedAdapter("poet", "loras/poet.pth"), ServedAdapter("org/judge", "loras/judge"))
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
BODIES = {
    "/v1/completions": {"prompt": "hi", "max_tokens": 2},
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"input": "hi", "max_output_tokens": 2},
    "/v1/messages": CHAT,
    "/v1/embeddings": {"input": "hi"},
}


class Recording:
    """A fake runner, and the adapter of each slot that was opened in it."""

    def __init__(self) -> None:
        self.adapters: list[int] = []
        self.runner = FakeRunner(lambda tokens, num_prompt: 97, before_step=self._record)

    def _record(self, batch: Batch) -> None:
        self.adapters += [opened.adapter for opened in batch.opened]


@pytest.mark.parametrize("path", BODIES)
async def test_every_generating_endpoint_takes_the_one_that_is_named(path):
    recording, answers = Recording(), []
    async with asking(build(recording.runner, served=served_model(adapters=ADAPTERS))) as client:
        for name in ("org/judge", "also-fake", "poet", None):
            answers.append(await client.post(path, json=BODIES[path] | ({} if name is None else {"model": name})))

    assert [answer.status_code for answer in answers] == [200] * 4
    assert recording.adapters == [2, 0, 1, 0]
    assert [answer.json()["model"] for answer in answers] == ["org/judge", "fake", "poet", "fake"]


async def test_a_stream_is_called_what_was_asked_for():
    async with asking(build(Recording().runner, served=served_model(adapters=ADAPTERS))) as client:
        answer = await client.post("/v1/completions", json={"prompt": "hi", "stream": True, "model": "poet"})

    assert all('"model":"poet"' in event for event in events_of(answer.text)[:-1])


@pytest.mark.parametrize("path", BODIES)
async def test_another_name_is_refused_and_all_are_named(path):
    async with asking(build(served=served_model(adapters=ADAPTERS))) as client:
        answer = await client.post(path, json=BODIES[path] | {"model": "novelist"})

    assert answer.status_code == 404
    assert "this server has fake, also-fake, poet, org/judge" in answer.text


async def test_they_are_listed_with_the_model_that_they_are_for():
    async with asking(build(served=served_model(adapters=ADAPTERS))) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        judge = (await client.get("/v1/models/org/judge")).json()

    assert [(one["id"], one["parent"]) for one in listed] == [
        ("fake", None),
        ("also-fake", None),
        ("poet", "fake"),
        ("org/judge", "fake"),
    ]
    assert (listed[3], judge["root"], listed[2]["root"]) == (judge, "loras/judge", "loras/poet.pth")


async def test_it_is_seen_whose_slot_is_whose():
    begins, goes_on = threading.Semaphore(0), threading.Semaphore(0)

    def wait(batch: Batch) -> None:
        begins.release()
        assert goes_on.acquire(timeout=20)

    runner = FakeRunner(lambda tokens, num_prompt: 97, before_step=wait)
    async with asking(build(runner, served=served_model(adapters=ADAPTERS))) as client:
        answers = [await _begin(client, name) for name in ("poet", "fake")]
        await asyncio.to_thread(begins.acquire, timeout=20)
        questions = [asyncio.create_task(client.get(path)) for path in ("/slots", "/v1/requests")]
        for _ in range(100):
            await asyncio.sleep(0)
        goes_on.release(100)
        slots, requests = [(await question).json() for question in questions]
        for answer in answers:
            assert (await answer).status_code == 200

    assert sorted(one["adapter"] or "" for one in requests["data"]) == ["", "poet"]
    assert {one["adapter"] for one in slots["slots"]} <= {None, "poet"}
    assert all((one["adapter"] == "poet") == (one["request_id"] == "poet") for one in slots["slots"])


async def _begin(client: httpx.AsyncClient, name: str) -> "asyncio.Task[httpx.Response]":
    body = {"prompt": "hi", "max_tokens": 9, "model": name}
    task = asyncio.create_task(client.post("/v1/completions", json=body, headers={"x-request-id": name}))
    for _ in range(100):
        await asyncio.sleep(0)
    return task
