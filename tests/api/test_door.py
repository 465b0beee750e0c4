"""Who is turned away before anything of the request is read."""

import threading
from collections.abc import Iterator

import pytest

from app.api.door import PATHS
from app.api.errors import WeightsRefused
from app.engine.request import RequestParams, Submission
from tests.api.api_parts import asking, build, build_with_engine
from tests.fakes import FakeRunner


@pytest.fixture
def gate() -> Iterator[threading.Semaphore]:
    """A step waits for it."""
    semaphore = threading.Semaphore(0)
    yield semaphore
    semaphore.release(10_000)


def full(gate):
    """An app with one running request and no place in the queue, once its engine runs."""
    runner = FakeRunner(before_step=lambda _: gate.acquire())
    return build_with_engine(runner, max_num_seqs=1, max_queued_requests=0, api_keys=["s3cr3t"])


def load_nothing(name):
    raise WeightsRefused(name)


def occupy(engine):
    return engine.submit([Submission("x", (1,), RequestParams(4))])


def test_the_paths_are_those_of_all_routes_that_ask_the_engine():
    routes = build(load_weights=load_nothing).openapi()["paths"]
    answers = {path for path, route in routes.items() if "generation" in route.get("post", {}).get("tags", ())}
    assert answers - {"/v1/messages/count_tokens"} == PATHS


@pytest.mark.parametrize("path", sorted(PATHS))
async def test_a_full_server_refuses_what_it_has_not_read(path, gate):
    app, engine = full(gate)
    async with asking(app) as client:
        occupy(engine)
        key = {"authorization": "Bearer s3cr3t"}
        answer = await client.post(path, content=b"this is no JSON", headers=key)
        unknown = await client.post(path, content=b"this is no JSON")
        models = await client.get("/v1/models", headers=key)
        gate.release(10_000)

    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["x-request-id"]
    assert unknown.status_code == 401, "how busy it is, is not for everybody"
    assert models.status_code == 200


async def test_once_there_is_room_it_reads_again(gate):
    app, engine = full(gate)
    async with asking(app) as client:
        stream = occupy(engine)
        gate.release(10_000)
        while await stream.next():
            pass
        answer = await client.post("/v1/completions", content=b"no", headers={"authorization": "Bearer s3cr3t"})

    assert answer.status_code == 415


async def test_a_server_that_shuts_down_refuses_what_it_has_not_read(gate):
    app, engine = full(gate)
    async with asking(app) as client:
        await engine.drain(0)
        answer = await client.post("/v1/completions", content=b"no", headers={"authorization": "Bearer s3cr3t"})
        gate.release(10_000)

    assert answer.status_code == 503
    assert answer.headers["connection"] == "close"
