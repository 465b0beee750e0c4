"""A server on MiniMind's own files, of every era: the whole path from the checkpoint to the stream of a chat."""

import json
from pathlib import Path

import pytest
from fastapi import FastAPI

from app.api.app import create_app
from app.api.metrics import Metrics
from app.engine.engine import Engine
from app.main import access_of, describe, limits_of, run_self_test, vocabulary_of
from app.settings import ServeSettings
from model.load import LoadedModel, load
from tests.api.api_parts import asking, events_of
from tests.model.minimind_data import EXPORTS, GOLDEN, MINIMIND, needs_minimind

CHAT = {
    "messages": [{"role": "system", "content": "你是 MiniMind"}, {"role": "user", "content": "你好, who are you?"}],
    "max_tokens": 12,
    "temperature": 0,
    "ignore_eos": True,
    "return_token_ids": True,
}
ERAS = ("v1", "v2-early", "v2", "v3")
NAMES = [era + kind for era in ERAS for kind in ("", "-moe")] + ["v3-untied"]
EXPORTED = ("v2", "v3", "v3-moe-split")


def of_golden(name: str) -> ServeSettings:
    golden = json.loads((GOLDEN / name / "config.json").read_text())
    return settings_of(GOLDEN / name / golden["checkpoint"], golden["tokenizer"])


def settings_of(model: Path, tokenizer: str) -> ServeSettings:
    return ServeSettings(
        model=str(model),
        tokenizer=str(MINIMIND / "tokenizers" / tokenizer),
        backend="torch",
        dtype="float32",
        max_model_len=256,
        max_num_seqs=4,
        max_num_batched_tokens=16,
        kv_cache_memory="16m",
    )


def app_of(settings: ServeSettings, loaded: LoadedModel) -> FastAPI:
    metrics = Metrics()
    engine = Engine(loaded.runner, vocabulary_of(loaded), limits_of(settings), observe=metrics.observe)
    served = describe(settings, loaded, run_self_test(settings, loaded))
    return create_app(served, engine, metrics, access_of(settings))


async def check_a_streamed_chat(settings: ServeSettings) -> None:
    """It is answered, and is the whole answer in pieces."""
    loaded = load(settings.load_options())
    async with asking(app_of(settings, loaded)) as client:
        whole = (await client.post("/v1/chat/completions", json=CHAT)).json()
        streamed = await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert streamed.status_code == 200, streamed.text
    *chunks, done = events_of(streamed.text)
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    (answer,) = whole["choices"]
    token_ids = [token_id for choice in choices for token_id in choice["token_ids"] or ()]
    said = answer["message"]["content"]

    assert done == "[DONE]"
    assert loaded.eos_token_ids == {2}
    assert choices[-1]["finish_reason"] == answer["finish_reason"] == "length"
    assert token_ids == answer["token_ids"]
    assert len(token_ids) == 12
    assert said
    assert said == "".join(choice["delta"].get("content", "") for choice in choices)


@needs_minimind
@pytest.mark.parametrize("name", NAMES)
async def test_every_era_s_checkpoint_answers_a_streamed_chat(name):
    await check_a_streamed_chat(of_golden(name))


@needs_minimind
@pytest.mark.parametrize("name", EXPORTED)
async def test_every_export_answers_a_streamed_chat(name):
    await check_a_streamed_chat(settings_of(EXPORTS / name, name[:2]))
