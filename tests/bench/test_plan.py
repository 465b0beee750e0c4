"""What is found out from a server before a load, on the real API with a fake model."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from app.bench.errors import BadWorkload, Unusable
from app.bench.plan import make_plan
from app.bench.prompts import RandomWorkload
from app.bench.records import Failure, Record
from app.bench.run import run_load
from app.bench.serve import add_arguments
from tests.api.api_parts import WithBos, build, served_model
from tests.bench.scripted_server import page, scripted
from tests.fakes import FakeRunner
from tests.live_server import serve


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Each byte is a token, and each prompt begins with one more."""
    runner = FakeRunner(num_blocks=1024, block_size=16, max_model_len=1024)
    with serve(build(runner, served=served_model(tokenizer=WithBos(), max_model_len=1024))) as server:
        yield server.url


def options(url: str, words: str) -> Namespace:
    parser = ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--base-url", url, *words.split()])


async def records_of(url: str, words: str) -> list[Record]:
    plan = await make_plan(options(url, words))
    records: list[Record] = []
    await run_load(plan.loads[0], plan.source.asks(0), records.append)
    return records


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
@pytest.mark.parametrize("length", [40, 77, 300])
async def test_prompts_have_the_asked_length_by_the_servers_own_count(url: str, endpoint: str, length: int) -> None:
    words = f"--endpoint {endpoint} --input-len {length} --output-len 3 --num-prompts 6 --ignore-eos"
    records = await records_of(url, words)
    assert [(record.failure, record.prompt_tokens, record.output_tokens) for record in records] == [
        (None, length, 3)
    ] * 6


async def test_token_ids_have_the_asked_length_too(url: str) -> None:
    records = await records_of(url, "--token-ids --input-len 50 --output-len 2 --num-prompts 4")
    assert [record.prompt_tokens for record in records] == [50] * 4


async def test_lengths_of_a_range_are_exact_as_well(url: str) -> None:
    plan = await make_plan(options(url, "--input-len 100 --random-range-ratio 0.5 --num-prompts 1 --output-len 2"))
    for ask in islice(plan.source.asks(0), 20):
        assert ask.num_prompt_tokens == len(str(ask.prompt).encode()) + 1
        assert 50 <= ask.num_prompt_tokens <= 150


async def test_the_model_is_the_servers_first_and_the_lengths_are_in_the_settings(url: str) -> None:
    plan = await make_plan(options(url, "--concurrency 1,2 --input-len 40"))
    assert [load.model for load in plan.loads] == ["fake", "fake"]
    assert [(load.input_len, load.output_len) for load in plan.loads] == [(40, 128)] * 2
    assert (await make_plan(options(url, "--model also-fake --input-len 40"))).loads[0].model == "also-fake"


async def test_a_file_needs_no_tokenizer_and_no_first_request(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"prompt": "a", "max_tokens": 3}\n')
    plan = await make_plan(options("http://127.0.0.1:9", f"--model m --dataset-path {path}"))
    ask = next(plan.source.asks(0))
    assert (ask.prompt, ask.max_tokens, ask.num_prompt_tokens) == ("a", 3, None)
    assert (plan.loads[0].input_len, plan.loads[0].output_len) == (None, None), "lengths are the file's"


async def test_conversations_are_as_long_as_they_are(url: str) -> None:
    plan = await make_plan(options(url, "--dataset-name conversation"))
    assert isinstance(plan.source.workload, RandomWorkload)
    lengths = {ask.num_prompt_tokens for ask in islice(plan.source.asks(0), 30)}
    assert len(lengths) > 10
    assert plan.loads[0].input_len is None


async def test_requests_are_seeded_where_answers_are_drawn(url: str) -> None:
    greedy = await make_plan(options(url, "--input-len 40"))
    drawn = await make_plan(options(url, "--input-len 40 --temperature 0.8 --cancel-fraction 0.5"))
    assert next(greedy.source.asks(0)).seed is None
    asks = list(islice(drawn.source.asks(0), 40))
    assert None not in {ask.seed for ask in asks}
    assert 5 < sum(ask.cancel_after is not None for ask in asks) < 35


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--input-len 5 --endpoint chat", "a prompt has .* tokens at least"),
        ("--token-ids --endpoint chat", "a chat has no token ids"),
        ("--dataset-name custom", "--dataset-path belongs to"),
        ("--dataset-name random --dataset-path x", "--dataset-path belongs to"),
    ],
)
async def test_options_that_cannot_be_done_are_the_users_mistake(url: str, words: str, message: str) -> None:
    with pytest.raises(BadWorkload, match=message):
        await make_plan(options(url, words))


async def test_a_server_that_refuses_the_first_request_is_unusable(url: str) -> None:
    with pytest.raises(Unusable, match=f"first request failed .{Failure.REFUSED}.*no such model"):
        await make_plan(options(url, "--model other --input-len 40"))


async def test_a_server_that_is_not_there_is_unusable() -> None:
    for words in ("", "--model m"):
        with pytest.raises(Unusable, match="cannot be reached"):
            await make_plan(options("http://127.0.0.1:9", words))


async def test_a_server_without_models_is_told_to_be_given_one() -> None:
    async with scripted(page("200 OK", b"")) as server:
        with pytest.raises(Unusable, match="--model"):
            await make_plan(options(server.url, ""))
