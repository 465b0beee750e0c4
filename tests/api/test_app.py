"""The parts together: the engine's life, the documents, and an event loop that nothing holds."""

import asyncio
import threading

import pytest

from app.api.schemas.chat import ChatRequest
from app.api.schemas.completions import CompletionRequest
from tests.api.api_parts import asking, build, build_with_engine, served_model
from tests.fakes import ByteTokenizer

ROUTES = {
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/chat/completions/render",
    "/v1/completions/render",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/responses",
    "/v1/models",
    "/v1/models/{name}",
    "/v1/requests",
    "/v1/requests/{id}/cancel",
    "/tokenize",
    "/detokenize",
    "/tokenizer_info",
    "/version",
    "/slots",
    "/metrics",
    "/health",
    "/health/live",
    "/health/ready",
}


def references(node) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [reference for value in node.values() for reference in references(value)]
    return [reference for value in node for reference in references(value)] if isinstance(node, list) else []


def resolve(document: dict, reference: str):
    assert reference.startswith("#/")
    for step in reference[2:].split("/"):
        document = document[step.replace("~1", "/")]
    return document


async def test_the_engine_lives_as_long_as_the_app():
    app, engine = build_with_engine()

    assert not engine.is_alive
    async with asking(app):
        assert engine.is_alive
    assert not engine.is_alive


async def test_every_route_and_field_is_documented():
    async with asking(build()) as client:
        document = (await client.get("/openapi.json")).json()
        page = await client.get("/docs")

    assert page.status_code == 200
    assert set(document["paths"]) == ROUTES
    assert all(resolve(document, reference) for reference in references(document))
    for path, kind in (("/v1/completions", CompletionRequest), ("/v1/chat/completions", ChatRequest)):
        operation = document["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert schema["properties"].keys() == kind.model_fields.keys()
        assert "422" not in operation["responses"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [97]}),
        ("/v1/embeddings", {"input": "a"}),
    ],
)
async def test_while_a_tokenizer_works_the_event_loop_is_free(path, body):
    working, may_go_on = threading.Event(), threading.Event()

    class Slow(ByteTokenizer):
        def encode(self, text: str, add_special_tokens: bool = True, *, mark: str = "") -> list[int]:
            working.set()
            assert may_go_on.wait(20)
            return super().encode(text)

        def decode(self, token_ids, skip_special_tokens: bool = False) -> str:
            working.set()
            assert may_go_on.wait(20)
            return super().decode(token_ids)

    async with asking(build(served=served_model(tokenizer=Slow()))) as client:
        asked = asyncio.create_task(client.post(path, json=body))
        await asyncio.to_thread(working.wait, 20)
        assert (await client.get("/health")).status_code == 200
        assert not asked.done()
        may_go_on.set()
        assert (await asked).status_code == 200
