"""Every answer bears an id: the client's own where it is well formed."""

import time

import pytest

from tests.api.api_parts import asking, build
from tests.fakes import FakeRunner

COMPLETION = {"prompt": "a", "max_tokens": 1}


@pytest.fixture
async def client():
    async with asking(build()) as client:
        yield client


@pytest.mark.parametrize("sent", ["bench-0af3-17", "a", "A.b_c:d-9", "x" * 128])
async def test_a_well_formed_id_is_echoed_and_names_the_answer(client, sent):
    answer = await client.post("/v1/completions", json=COMPLETION, headers={"x-request-id": sent})

    assert answer.headers["x-request-id"] == sent
    assert answer.json()["id"] == f"cmpl-{sent}"


@pytest.mark.parametrize("sent", [b"", b"x" * 129, b"a b", b"a\x1b[31m", b"\xff", b'"', b"a\tb", b"{}", b"a/b"])
async def test_any_other_is_replaced(client, sent):
    answer = await client.post("/v1/completions", json=COMPLETION, headers={"x-request-id": sent})

    assert answer.headers["x-request-id"].encode() != sent
    assert len(answer.headers["x-request-id"]) == 32


async def test_two_ids_are_none(client):
    answer = await client.get("/health", headers=[("x-request-id", "a"), ("x-request-id", "b")])

    assert answer.headers["x-request-id"] not in ("a", "b")


async def test_ids_differ(client):
    ids = {(await client.get("/health")).headers["x-request-id"] for _ in range(20)}

    assert len(ids) == 20


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/v1/completions", 415),
        ("GET", "/docs", 200),
    ],
)
async def test_errors_and_documents_have_one_too(client, method, path, status):
    answer = await client.request(method, path, headers={"x-request-id": "mine"})

    assert answer.status_code == status
    assert answer.headers.get_list("x-request-id") == ["mine"]


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/v1/models"])
async def test_every_answer_tells_the_time_that_it_took(client, path):
    (elapsed,) = (await client.get(path)).headers.get_list("openai-processing-ms")

    assert int(elapsed) >= 0


async def test_the_time_of_a_whole_answer_is_that_of_all_its_steps():
    runner = FakeRunner(before_step=lambda _: time.sleep(0.02))
    async with asking(build(runner)) as client:
        answer = await client.post("/v1/completions", json={"prompt": "a", "max_tokens": 10})

    assert int(answer.headers["openai-processing-ms"]) >= 200


async def test_a_stream_tells_it_too(client):
    answer = await client.post("/v1/completions", json=COMPLETION | {"stream": True})

    assert int(answer.headers["openai-processing-ms"]) >= 0
