"""GuideLLM and AIPerf, unmodified, complete a run, in each shape of request that they have for texts."""

import json
from pathlib import Path

import pytest

from model.default_model import DEFAULT_MODEL
from tests.clients.environments import run, tool
from tests.live_model import LiveModel

NUM_REQUESTS, OUTPUT = 6, 10

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]


@pytest.mark.parametrize("route", ["/v1/completions", "/v1/chat/completions", "/v1/responses"])
def test_guidellm(route: str, server: LiveModel, tokenizer_folder: Path, tmp_path: Path) -> None:
    options = {
        "--backend": f"kind=openai_http,target={server.url},request_format={route}",
        "--profile": "kind=concurrent,streams=2",
        "--constraint": f"kind=max_requests,count={NUM_REQUESTS}",
        "--data": f"kind=synthetic_text,prompt_tokens=24,output_tokens={OUTPUT}",
        "--tokenizer": f"kind=huggingface_auto,model={tokenizer_folder}",
        "--output": f"kind=json,path={tmp_path / 'report.json'}",
    }
    words = [word for option in options.items() for word in option]
    run([tool("guidellm"), "run", *words, "--disable-console-interactive"], tmp_path)

    (benchmark,) = json.loads((tmp_path / "report.json").read_text())["benchmarks"]
    metrics = benchmark["metrics"]
    assert metrics["request_totals"] == {
        "successful": NUM_REQUESTS,
        "errored": 0,
        "incomplete": 0,
        "total": NUM_REQUESTS,
    }
    assert metrics["output_token_count"]["successful"]["total_sum"] == NUM_REQUESTS * OUTPUT
    assert metrics["time_to_first_token_ms"]["successful"]["min"] > 0


@pytest.mark.parametrize("endpoint", ["completions", "chat", "responses"])
def test_aiperf(endpoint: str, server: LiveModel, tokenizer_folder: Path, tmp_path: Path) -> None:
    """Not told to be offline: then it takes no folder for a tokenizer, as which all that it would fetch is here."""
    options = {
        "--model": DEFAULT_MODEL.name,
        "--url": server.url,
        "--endpoint-type": endpoint,
        "--concurrency": "2",
        "--request-count": str(NUM_REQUESTS),
        "--tokenizer": str(tokenizer_folder),
        "--synthetic-input-tokens-mean": "24",
        "--output-tokens-mean": str(OUTPUT),
        "--extra-inputs": "ignore_eos:true",
        "--goodput": "time_to_first_token:100000",
        "--artifact-dir": str(tmp_path / "artifacts"),
        "--ui": "none",
    }
    words = [word for option in options.items() for word in option]
    run([tool("aiperf"), "profile", "--streaming", *words], tmp_path, variables={})

    report = json.loads((tmp_path / "artifacts/profile_export_aiperf.json").read_text())
    assert report["error_summary"] == []
    assert report["request_count"]["avg"] == NUM_REQUESTS
    if endpoint != "responses":  # of whose usage it takes no notice
        assert report["total_usage_completion_tokens"]["avg"] == NUM_REQUESTS * OUTPUT
    assert report["good_request_count"]["avg"] == NUM_REQUESTS
    scraped = json.loads((tmp_path / "artifacts/server_metrics_export.json").read_text())
    assert scraped["summary"]["endpoints_successful"] == [server.url + "/metrics"]
    assert "slotwise_generation_tokens" in scraped["metrics"]
