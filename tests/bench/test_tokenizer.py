"""/tokenize as its servers have it."""

import json

import pytest

from app.bench.client import Client
from app.bench.connection import Lost
from app.bench.records import RunSettings
from app.bench.tokenizer import find_tokenizer
from tests.bench.scripted_server import Raw, page, scripted

TOKENS = page("200 OK", json.dumps({"tokens": [5, 6]}).encode())
NO_TOKENS = page("200 OK", b'{"tokens": []}')
REFUSED = page("400 Bad Request", b'{"error": "prompt is missing"}')


@pytest.mark.parametrize(("first", "key"), [(TOKENS, "prompt"), (NO_TOKENS, "content"), (REFUSED, "content")])
async def test_a_tokenizer_is_found_by_what_it_calls_its_text(first: Raw, key: str) -> None:
    answers = [first, TOKENS, TOKENS]
    async with scripted(answers.__getitem__) as server, Client(RunSettings(server.url, "m")) as client:
        tokenizer = await find_tokenizer(client)
        assert tokenizer is not None
        assert await tokenizer.encode("hello") == (5, 6)
    body = server.exchanges[-1].body
    assert body == {"model": "m", key: "hello", "add_special_tokens": False}
    assert server.exchanges[-1].head.startswith("POST /tokenize ")


@pytest.mark.parametrize("answer", [page("404 Not Found", b""), page("200 OK", b"[1]"), page("200 OK", b"<html>")])
async def test_a_server_without_one_has_none(answer: Raw) -> None:
    async with scripted(answer) as server, Client(RunSettings(server.url, "m")) as client:
        assert await find_tokenizer(client) is None


async def test_a_server_that_is_not_there_is_another_matter() -> None:
    async with scripted(TOKENS) as server:
        pass
    async with Client(RunSettings(server.url, "m")) as client:
        with pytest.raises(Lost):
            await find_tokenizer(client)
