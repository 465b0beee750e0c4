"""POST /v1/embeddings, over an engine whose vectors can be computed by hand; and with OpenAI's own client."""

import asyncio
import base64
import math
import struct
from collections.abc import Sequence
from types import SimpleNamespace

import httpx2
import openai
import pytest
from fastapi import FastAPI

from app.api.auth import ApiKeys
from app.api.embeddings import Pooling, packed, unit
from app.api.errors import install_error_handlers
from app.api.request_id import RequestIds
from app.engine.request import FinishReason, Submission, TokenEvent
from app.engine.stream import EventStream
from tests.api.api_parts import WithBos, asking, served_model
from tests.api.api_parts import build as build_app
from tests.fakes import BOS, ByteTokenizer


class PoolingEngine:
    """The vector of a prompt is (sum of its tokens, their number), known at once unless it `hangs`."""

    def __init__(self, hangs: bool = False) -> None:
        self.info = SimpleNamespace(hidden_size=2)
        self.hangs = hangs
        self.submitted: list[Submission] = []
        self.num_aborted = 0

    def submit(self, submissions: Sequence[Submission]) -> EventStream:
        self.submitted += submissions
        stream = EventStream(len(submissions), abort=self._abort)
        for index, one in reversed([*enumerate(submissions)] * (not self.hangs)):
            pooled = self.pooled(one)
            reason = FinishReason.ABORT if pooled is None else FinishReason.LENGTH
            stream.deliver(TokenEvent(index, finish_reason=reason, pooled=pooled))
        return stream

    def pooled(self, one: Submission) -> tuple[float, ...] | None:
        return float(sum(one.prompt_token_ids)), float(len(one.prompt_token_ids))

    def _abort(self) -> None:
        self.num_aborted += 1


class Cancelled(PoolingEngine):
    def pooled(self, one: Submission) -> None:
        return None


class Broken(PoolingEngine):
    def pooled(self, one: Submission) -> tuple[float, ...]:
        return math.nan, 0.0


def build(engine: PoolingEngine, tokenizer: ByteTokenizer) -> FastAPI:
    app = FastAPI()
    app.include_router(Pooling(served_model(tokenizer=tokenizer), engine, engine.submit).router())  # type: ignore[arg-type]
    install_error_handlers(app)
    app.add_middleware(ApiKeys, keys=())
    app.add_middleware(RequestIds)
    return app


async def ask(engine: PoolingEngine, tokenizer: ByteTokenizer | None = None, **body) -> httpx2.Response:
    transport = httpx2.ASGITransport(build(engine, tokenizer or WithBos()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://app") as client:
        return await client.post("/v1/embeddings", json=body, headers={"x-request-id": "mine"})


async def vectors(**body) -> list:
    answer = await ask(PoolingEngine(), **body)
    assert answer.status_code == 200, answer.text
    return [one["embedding"] for one in answer.json()["data"]]


async def test_a_text_has_the_mean_of_its_tokens_the_first_one_included():
    answer = await ask(PoolingEngine(), input="ab", model="also-fake", user="me")

    assert answer.json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [BOS + 97 + 98, 3]}],
        "model": "fake",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["a", "bb"], [[BOS + 97, 2], [BOS + 196, 3]]),
        ([1, 2, 3], [[6, 3]]),
        ([[1], [2, 3]], [[1, 1], [5, 2]]),
        ([""], [[BOS, 1]]),
    ],
)
async def test_each_input_has_a_vector_in_its_place(wanted, expected):
    assert await vectors(input=wanted) == expected
    assert await vectors(input=wanted, encoding_format="float", dimensions=2) == expected


async def test_base64_is_of_float32_with_the_lowest_byte_first():
    [text] = await vectors(input=[1, 2], encoding_format="base64")

    assert base64.b64decode(text) == bytes.fromhex("00004040 00000040")


async def test_a_vector_is_as_the_model_has_it_unless_unit_length_is_asked_for():
    assert await vectors(input=[1, 2, 1]) == await vectors(input=[1, 2, 1], normalize=False) == [[4, 3]]
    assert await vectors(input=[1, 2, 1], normalize=True) == [[0.8, 0.6]]


async def test_of_longer_inputs_only_the_first_tokens_are_read():
    assert await vectors(input=[[1], [1, 2, 3]], truncate_prompt_tokens=2) == [[1, 1], [3, 2]]


def test_zero_has_no_direction():
    assert unit((0.0, 0.0)) == (0.0, 0.0)


def test_a_packed_vector_is_read_back_as_float32():
    values = [0.1, -1e-30, 3.5e38 / 2, 0.0]
    raw = base64.b64decode(packed(values))

    assert struct.unpack("<4f", raw) == pytest.approx(values, rel=2**-23)


async def test_the_engine_is_asked_to_read_and_not_to_write():
    engine = PoolingEngine()
    await ask(engine, input=[[1], [2]])

    assert [one.request_id for one in engine.submitted] == ["mine-0", "mine-1"]
    for one in engine.submitted:
        assert (one.call_id, one.owner) == ("mine", "")
        assert (one.params.max_tokens, one.params.pools) == (0, True)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [258]}, "input"),
        ({"input": [[1], ["a"]]}, "input"),
        ({"input": "a", "dimensions": 3}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "normalize": 1}, "normalize"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"input": "a", "model": "other"}, "model"),
    ],
)
async def test_what_is_wrong_is_refused_by_field(body, param):
    answer = await ask(PoolingEngine(), **body)

    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param


async def test_an_input_without_tokens_is_refused():
    answer = await ask(PoolingEngine(), ByteTokenizer(), input=["a", ""])

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")


@pytest.mark.parametrize(("engine", "status", "code"), [(Cancelled(), 400, "request_cancelled"), (Broken(), 500, None)])
async def test_without_a_vector_there_is_an_error(engine, status, code):
    answer = await ask(engine, input="a")

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_client_that_leaves_frees_the_slot():
    engine = PoolingEngine(hangs=True)
    asked = asyncio.create_task(ask(engine, input="a"))
    while not engine.submitted:
        await asyncio.sleep(0)
    assert engine.num_aborted == 0
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)

    assert engine.num_aborted == 1


async def test_the_engine_reads_prompts_of_any_length_that_fits():
    """FakeRunner's vector is the mean of the prompt's tokens."""
    prompts = [[1, 2, 6], list(range(100)), [7] * 128]
    async with asking(build_app(max_num_batched_tokens=16)) as client:
        answer = await client.post("/v1/embeddings", json={"input": prompts, "dimensions": 1})
        too_long = await client.post("/v1/embeddings", json={"input": [[1], [7] * 129]})
        cut = await client.post("/v1/embeddings", json={"input": [[1], [7] * 129], "truncate_prompt_tokens": -1})
        slots = (await client.get("/slots")).json()["slots"]

    assert [one["embedding"] for one in answer.json()["data"]] == [[3], [49.5], [7]]
    assert [one["embedding"] for one in cut.json()["data"]] == [[1], [7]]
    assert cut.json()["usage"]["prompt_tokens"] == 1 + 128
    assert (too_long.status_code, too_long.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert slots == []


@pytest.mark.parametrize("encoding_format", [openai.omit, "float", "base64"])
async def test_openais_client_reads_it(encoding_format):
    """Left to itself it asks for base64 and unpacks it."""
    transport = httpx2.ASGITransport(build(PoolingEngine(), WithBos()))
    async with openai.AsyncOpenAI(
        api_key="none", base_url="http://app/v1", http_client=httpx2.AsyncClient(transport=transport)
    ) as client:
        answer = await client.embeddings.create(
            model="fake", input=["ab", "c"], encoding_format=encoding_format, extra_body={"normalize": False}
        )

    embedding = answer.data[0].embedding
    if encoding_format == "base64":
        assert isinstance(embedding, str)
    else:
        assert list(embedding) == [BOS + 195, 3]
    assert answer.usage.total_tokens == 5
