"""Bodies that are too large or too slow; what a small one may still do. Without a socket: the catalogue has those."""

import asyncio
import json

import pytest

from app.api.body_limit import BodyLimit
from app.api.errors import BodyTooLarge, RequestTooSlow
from tests.api.api_parts import asking, build

JSON = {"content-type": "application/json"}


def body_of(size: int) -> bytes:
    text = json.dumps({"prompt": "hi", "max_tokens": 1, "user": ""}).encode()
    return text[:-2] + b"a" * (size - len(text)) + text[-2:]


async def in_pieces(body: bytes, size: int):
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("size", [1024, 1025])
async def test_a_body_may_have_its_bytes_and_no_more(size):
    async with asking(build(max_body=1024)) as client:
        whole = await client.post("/v1/completions", content=body_of(size), headers=JSON)
        pieces = await client.post("/v1/completions", content=in_pieces(body_of(size), 100), headers=JSON)

    for answer in (whole, pieces):
        assert answer.status_code == (200 if size == 1024 else 413)
        assert ("connection" in answer.headers) == (size > 1024)
        assert size == 1024 or answer.json()["error"]["code"] == "request_too_large"


async def receiving(messages, pause: float = 0.0):
    """A `receive` that gives these, one after the other."""
    left = iter(messages)

    async def receive():
        await asyncio.sleep(pause)
        return next(left)

    return receive


async def read_to_the_end(receive, *, max_body: int = 100, seconds: float = 5.0) -> int:
    """How many messages an app behind the limit received."""
    received = []

    async def app(scope, receive, send):
        while not received or received[-1].get("more_body"):
            received.append(await receive())

    await BodyLimit(app, max_body, seconds)({"type": "http", "headers": []}, receive, None)
    return len(received)


def piece(size: int, more: bool = True):
    return {"type": "http.request", "body": b"a" * size, "more_body": more}


async def test_nothing_is_read_behind_the_limit():
    pieces = [piece(60), piece(60), piece(60, False)]
    receive = await receiving(pieces)

    with pytest.raises(BodyTooLarge):
        await read_to_the_end(receive)
    assert (await receive())["more_body"] is False  # the third is still there


async def test_a_body_that_does_not_come_is_not_waited_for():
    with pytest.raises(RequestTooSlow):
        await read_to_the_end(await receiving([piece(1)], pause=30), seconds=0.01)


async def test_what_comes_behind_a_body_has_all_the_time():
    received = []

    async def app(scope, receive, send):
        received.append(await receive())
        received.append(await receive())

    receive = await receiving([piece(1, False), {"type": "http.disconnect"}], pause=0.05)
    await BodyLimit(app, 100, 0.08)({"type": "http", "headers": []}, receive, None)
    assert received[-1]["type"] == "http.disconnect"
