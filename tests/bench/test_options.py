"""From a command line to the settings of its loads."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

import pytest

from app.bench import serve
from app.bench.errors import BadWorkload
from app.bench.options import read_loads
from app.bench.records import RunSettings


def parsed(words: str) -> Namespace:
    parser = ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(words.split())


def loads(words: str = "") -> Sequence[RunSettings]:
    return read_loads(parsed(words), "m")


def test_without_options_eight_are_in_flight_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (load,) = loads()
    assert load == RunSettings("http://127.0.0.1:8000", "m", concurrency=8, duration=60.0)


def test_a_command_line_of_vllm_bench_serve_is_understood() -> None:
    words = (
        "--backend openai --base-url http://host:1 --endpoint /v1/completions --model m --dataset-name random"
        " --random-input-len 100 --random-output-len 20 --random-range-ratio 0.1 --random-prefix-len 5 --num-prompts 30"
        " --request-rate 4 --burstiness 0.5 --max-concurrency 6 --num-warmups 2 --seed 3 --ignore-eos --temperature 0.5"
        " --goodput ttft:200 tpot:50 --metric-percentiles 25,99 --save-result --result-dir . --result-filename r.json"
        " --header a=b c=d --label l --metadata gpu=none --insecure"
    )
    (load,) = loads(words)
    assert load == RunSettings(
        base_url="http://host:1",
        model="m",
        path="/v1/completions",
        concurrency=6,
        request_rate=4.0,
        burstiness=0.5,
        num_prompts=30,
        warmup=2,
        seed=3,
        input_len=100,
        output_len=20,
        temperature=0.5,
        ignore_eos=True,
        headers=(("a", "b"), ("c", "d")),
        is_verified=False,
        goodput={"ttft": 200.0, "tpot": 50.0},
        percentiles=(25.0, 99.0),
        label="l",
        metadata={"gpu": "none"},
        api_key=load.api_key,
    )


def test_each_concurrency_and_each_rate_is_a_load() -> None:
    assert [load.concurrency for load in loads("--concurrency 1,4,16")] == [1, 4, 16]
    both = loads("--concurrency 2,4 --request-rate 1,8")
    assert [(load.concurrency, load.request_rate) for load in both] == [(2, 1.0), (2, 8.0), (4, 1.0), (4, 8.0)]


def test_an_open_loop_has_no_bound_unless_one_is_given() -> None:
    assert loads("--request-rate 3")[0].concurrency is None
    assert loads("--request-rate inf")[0].concurrency == 8


def test_a_number_of_prompts_or_a_duration_ends_a_load() -> None:
    assert (loads("--num-prompts 5")[0].num_prompts, loads("--num-prompts 5")[0].duration) == (5, None)
    both = loads("--num-prompts 5 --duration 2m")[0]
    assert (both.num_prompts, both.duration) == (5, 120.0)


def test_a_ramp_goes_between_two_rates() -> None:
    (load,) = loads("--ramp-up-strategy linear --ramp-up-start-rps 1 --ramp-up-end-rps 9")
    assert (load.ramp, load.ramp_from, load.ramp_to, load.concurrency) == ("linear", 1.0, 9.0, None)


@pytest.mark.parametrize(
    ("words", "endpoint", "path"),
    [
        ("", "completions", "/v1/completions"),
        ("--endpoint chat", "chat", "/v1/chat/completions"),
        ("--backend openai-chat", "chat", "/v1/chat/completions"),
        ("--backend openai-chat --endpoint /v1/chat/completions", "chat", "/v1/chat/completions"),
        ("--endpoint /api/completions", "completions", "/api/completions"),
        ("--backend openai-chat --endpoint /openai/chat/completions", "chat", "/openai/chat/completions"),
    ],
)
def test_the_endpoint_is_named_or_given_by_its_path(words: str, endpoint: str, path: str) -> None:
    (load,) = loads(words)
    assert (load.endpoint, load.url_path) == (endpoint, path)


def test_the_address_may_be_given_in_two_parts() -> None:
    assert loads("--host h")[0].base_url == "http://h:8000"
    assert loads("--port 9")[0].base_url == "http://127.0.0.1:9"


def test_the_key_is_the_options_or_else_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
    assert loads()[0].api_key == "from the environment"
    assert loads("--api-key given")[0].api_key == "given"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--endpoint embeddings", "neither completions nor chat"),
        ("--backend openai-chat --endpoint completions", "contradict"),
        ("--cancel-fraction 0.5 --no-stream", "does not go with --no-stream"),
        ("--ramp-up-start-rps 1", "needs --ramp-up-strategy"),
        ("--ramp-up-strategy linear --ramp-up-start-rps 1", "--ramp-up-end-rps"),
        ("--ramp-up-strategy linear --ramp-up-start-rps 1 --ramp-up-end-rps 2 --request-rate 3", "no --request-rate"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words: str, message: str) -> None:
    with pytest.raises(BadWorkload, match=message):
        loads(words)


def test_help_says_what_the_figures_are_and_what_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "What ttft is: Time to first token: from the scheduled send time" in text
    assert "[default: http://127.0.0.1:8000]" in text
