"""GET /v1/requests and POST /v1/requests/{id}/cancel: by whose key, and by which id."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from fastapi import FastAPI

from app.api.auth import ApiKeys
from app.api.errors import install_error_handlers
from app.api.request_id import RequestIds
from app.api.requests import Requests
from tests.api import api_parts as live
from tests.fakes import FakeRunner


@dataclass(frozen=True)
class View:
    """As the engine shows a live request."""

    call_id: str
    owner: str
    request_id: str = "r"
    state: str = "decode"
    num_prompt_tokens: int = 3
    num_output_tokens: int = 2
    age_s: float = 1.23456
    deadline_in_s: float | None = None
    priority: int = 0
    adapter: int = 0


@dataclass
class ListingEngine:
    live: list[View] = field(default_factory=list)

    async def requests(self, owner: str) -> tuple[View, ...]:
        return tuple(view for view in self.live if view.owner == owner)

    async def cancel(self, call_id: str, owner: str) -> int:
        ended = [view for view in self.live if (view.call_id, view.owner) == (call_id, owner)]
        self.live = [view for view in self.live if view not in ended]
        return len(ended)


@asynccontextmanager
async def asking(engine: ListingEngine, keys: list[str]) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(Requests(live.served_model(), engine).router())  # type: ignore[arg-type]
    install_error_handlers(app)
    app.add_middleware(ApiKeys, keys=live.owned(keys))
    app.add_middleware(RequestIds)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        yield client


def bearing(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_what_runs_and_waits_is_listed():
    engine = ListingEngine(
        [View("mine", "", "mine-0", deadline_in_s=2.00049, priority=-1), View("b", "", state="queued")]
    )
    async with asking(engine, []) as client:
        answer = (await client.get("/v1/requests")).json()

    assert answer["object"] == "list"
    assert answer["data"][0] == {
        "id": "mine",
        "choice_id": "mine-0",
        "object": "request",
        "state": "decode",
        "num_prompt_tokens": 3,
        "num_output_tokens": 2,
        "age_s": 1.235,
        "deadline_in_s": 2.0,
        "priority": -1,
        "adapter": None,
    }
    assert (answer["data"][1]["state"], answer["data"][1]["deadline_in_s"]) == ("queued", None)


async def test_each_key_sees_its_own():
    async with asking(ListingEngine([View("a", "key-1"), View("b", "key-2")]), ["one", "two"]) as client:
        seen = [(await client.get("/v1/requests", headers=bearing(key))).json()["data"] for key in ("one", "two")]

    assert [[one["id"] for one in data] for data in seen] == [["a"], ["b"]]


async def test_all_choices_of_a_request_are_cancelled():
    engine = ListingEngine([View("mine", "", "mine-0"), View("mine", "", "mine-1"), View("other", "")])
    async with asking(engine, []) as client:
        answer = await client.post("/v1/requests/mine/cancel")

    assert answer.json() == {"id": "mine", "object": "request.cancelled", "num_cancelled": 2}
    assert [view.call_id for view in engine.live] == ["other"]


@pytest.mark.parametrize("prefix", ["", "cmpl-", "chatcmpl-", "resp_", "msg_"])
async def test_an_answers_own_id_names_it_too(prefix):
    engine = ListingEngine([View("a.b:c-d", "")])
    async with asking(engine, []) as client:
        answer = await client.post(f"/v1/requests/{prefix}a.b:c-d/cancel")

    assert (answer.status_code, answer.json()["id"], engine.live) == (200, "a.b:c-d", [])


async def test_an_id_that_begins_like_an_answers_is_first_taken_as_it_is():
    engine = ListingEngine([View("cmpl-a", ""), View("a", "")])
    async with asking(engine, []) as client:
        assert (await client.post("/v1/requests/cmpl-a/cancel")).json()["id"] == "cmpl-a"
        assert [view.call_id for view in engine.live] == ["a"]


async def test_anothers_request_is_as_if_it_were_not_there():
    engine = ListingEngine([View("a", "key-1")])
    async with asking(engine, ["one", "two"]) as client:
        others = await client.post("/v1/requests/a/cancel", headers=bearing("two"))
        nobodys = await client.post("/v1/requests/b/cancel", headers=bearing("two"))
        assert len(engine.live) == 1
        own = await client.post("/v1/requests/a/cancel", headers=bearing("one"))

    assert (others.status_code, others.json()) == (nobodys.status_code, nobodys.json())
    assert (others.status_code, others.json()["error"]["code"]) == (404, "request_not_found")
    assert own.status_code == 200


def endless() -> FakeRunner:
    """Says nothing but "a", and lets others have a turn between two of them."""
    return FakeRunner(
        lambda tokens, num_prompt: 97, num_blocks=8_000, max_model_len=20_000, before_step=lambda _: time.sleep(0.001)
    )


async def test_a_running_request_is_seen_and_ended_by_its_own_key_alone():
    body = {"prompt": "a", "max_tokens": 15_000, "ignore_eos": True, "n": 2, "timeout": 600, "priority": 1}
    headers = {key: bearing(key) for key in ("one", "two")}
    async with live.asking(live.build(endless(), api_keys=["one", "two"])) as client:
        answering = asyncio.create_task(
            client.post("/v1/completions", json=body, headers=headers["one"] | {"x-request-id": "mine"})
        )
        while not (mine := (await client.get("/v1/requests", headers=headers["one"])).json()["data"]):
            await asyncio.sleep(0)
        theirs = (await client.get("/v1/requests", headers=headers["two"])).json()["data"]
        refused = await client.post("/v1/requests/cmpl-mine/cancel", headers=headers["two"])
        assert not answering.done()
        cancelled = await client.post("/v1/requests/cmpl-mine/cancel", headers=headers["one"])
        answer = await answering
        left = (await client.get("/slots", headers=headers["one"])).json()["slots"]

    assert [(one["id"], one["choice_id"], one["priority"]) for one in mine] == [
        ("mine", f"mine-{i}", 1) for i in (0, 1)
    ]
    assert all(590 < one["deadline_in_s"] <= 600 for one in mine)
    assert (theirs, refused.status_code, left) == ([], 404, [])
    assert cancelled.json() == {"id": "mine", "object": "request.cancelled", "num_cancelled": 2}
    assert answer.status_code == 200
    assert [choice["finish_reason"] for choice in answer.json()["choices"]] == ["abort", "abort"]
