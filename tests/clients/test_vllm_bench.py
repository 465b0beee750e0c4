"""`vllm bench serve`, unmodified, in each shape of request that it has for texts."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environments import program, run
from tests.live_model import LiveModel

NUM_PROMPTS, INPUT, OUTPUT = 6, 24, 12
GENERATING = {
    "openai": "/v1/completions",
    "openai-chat": "/v1/chat/completions",
    "openai-responses": "/v1/responses",
}

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]


def bench(server: LiveModel, tokenizer: Path, folder: Path, *options: str) -> dict[str, Any]:
    """The file of results. The model is not named: the client asks the server for it."""
    vllm = program("vllm", os.environ.get("SLOTWISE_VLLM"))
    shape = [*("--dataset-name", "random", "--random-input-len", str(INPUT), "--random-output-len", str(OUTPUT))]
    load = ["--num-prompts", str(NUM_PROMPTS), "--max-concurrency", "3", "--percentile-metrics", "ttft,tpot,itl,e2el"]
    results = ["--save-result", "--save-detailed", "--result-dir", str(folder), "--result-filename", "result.json"]
    where = ["--base-url", server.url, "--tokenizer", str(tokenizer)]
    run([vllm, "bench", "serve", *where, *shape, *load, *results, *options], folder)
    return dict(json.loads((folder / "result.json").read_text()))


@pytest.mark.parametrize("backend", GENERATING)
def test_texts_of_a_fixed_length(backend: str, server: LiveModel, tokenizer_folder: Path, tmp_path: Path) -> None:
    options = ["--backend", backend, "--endpoint", GENERATING[backend], "--ignore-eos", "--goodput", "ttft:100000"]
    result = bench(server, tokenizer_folder, tmp_path, *options)

    assert result["errors"] == [""] * NUM_PROMPTS
    assert result["completed"] == NUM_PROMPTS
    assert result["output_lens"] == [OUTPUT] * NUM_PROMPTS
    assert all(0 < len(gaps) < OUTPUT for gaps in result["itls"])  # half a character waits for its other half
    assert all(ttft > 0 for ttft in result["ttfts"])
    assert result["request_goodput"] == pytest.approx(result["request_throughput"])


def test_completions_are_sent_as_many_tokens_as_were_drawn(
    server: LiveModel, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """The exported tokenizer counts as the server does."""
    options = ["--backend", "openai", "--request-rate", "50", "--burstiness", "0.5", "--logprobs", "2"]
    result = bench(server, tokenizer_folder, tmp_path, *options)

    assert result["completed"] == NUM_PROMPTS
    assert result["input_lens"] == [INPUT] * NUM_PROMPTS


def test_embeddings(server: LiveModel, tokenizer_folder: Path, tmp_path: Path) -> None:
    options = ["--backend", "openai-embeddings", "--endpoint", "/v1/embeddings"]
    result = bench(server, tokenizer_folder, tmp_path, *options)

    assert result["errors"] == [""] * NUM_PROMPTS
    assert result["completed"] == NUM_PROMPTS
    assert result["total_input_tokens"] == NUM_PROMPTS * INPUT
