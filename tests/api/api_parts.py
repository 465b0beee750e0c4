"""The API over FakeRunner: its parts as the tests of this folder put them together."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from app.api.access import Access
from app.api.app import create_app
from app.api.body_limit import MAX_BODY
from app.api.metrics import Metrics
from app.api.rollouts import LoadWeights
from app.api.served import ServedModel
from app.engine.engine import Engine
from app.engine.grammars.constraints import GrammarCompiler
from app.engine.scheduler import Limits
from tests.fakes import BYTES, EOS, ByteTokenizer, FakeRunner


class LinesTemplate:
    """`role: content`, a line for each message."""

    source = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    variables = frozenset({"messages", "add_generation_prompt"})

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        if messages[-1]["role"] == "assistant":
            raise ValueError("the last message must be the user's")
        lines = [f"{message['role']}: {message['content']}\n" for message in messages]
        return "".join([*lines, "assistant: " if add_generation_prompt else ""])


class WithBos(ByteTokenizer):
    """Its texts begin with a token."""

    def encode(self, text: str, add_special_tokens: bool = True, *, mark: str = "") -> list[int]:
        return [self.bos_token_id] * add_special_tokens + list(text.encode())


def served_model(**changes: Any) -> ServedModel:
    fields: dict[str, Any] = {
        "names": ("fake", "also-fake"),
        "root": "folder/fake",
        "created": 1_700_000_000,
        "max_model_len": 128,
        "tokenizer": ByteTokenizer(),
        "chat_template": LinesTemplate(),
        "eos_token_ids": frozenset({EOS}),
        "grammars": GrammarCompiler(BYTES, frozenset({EOS})),
        "fingerprint": "fp_fake",
    }
    return ServedModel(**(fields | changes))


def build_with_engine(
    runner: FakeRunner | None = None,
    *,
    served: ServedModel | None = None,
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 64,
    max_queued_requests: int = 1024,
    api_keys: Sequence[str] = (),
    access: Access | None = None,
    max_body: int = MAX_BODY,
    ping_after_s: float = 15.0,
    load_weights: LoadWeights | None = None,
) -> tuple[FastAPI, Engine]:
    runner = runner or FakeRunner()
    metrics = Metrics()
    engine = Engine(runner, BYTES, Limits(max_num_seqs, max_num_batched_tokens, max_queued_requests), metrics.observe)
    served = served or served_model(max_model_len=runner.info.max_model_len)
    access = access or Access(owned(api_keys), max_body=max_body)
    return create_app(served, engine, metrics, access, ping_after_s, load_weights), engine


def owned(keys: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The first is key-1's, the second key-2's, …"""
    return tuple((f"key-{place}", key) for place, key in enumerate(keys, 1))


def build(runner: FakeRunner | None = None, **options: Any) -> FastAPI:
    return build_with_engine(runner, **options)[0]


@asynccontextmanager
async def asking(app: FastAPI, raise_app_exceptions: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app, without a socket, while its engine runs."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=raise_app_exceptions)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        yield client


def events_of(stream: str) -> list[str]:
    """The data of each server-sent event; comments left out."""
    blocks = [block for block in stream.split("\n\n") if block and not block.startswith(":")]
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks), stream
    return [block.removeprefix("data: ") for block in blocks]
