"""The client against a live server whose answers are known, and what it makes of them. No peer is started here."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.api.api_parts import build
from tests.bench.scripted_server import Stream, scripted
from tests.fakes import FakeRunner, says
from tests.live_server import serve
from tests.peers.client import Address, PeerError, measure
from tests.peers.measures import Cell, cells
from tests.peers.run import Sample, medians, parser, peers, table
from tests.peers.workload import Answer, Figures, Workload

WORKLOAD = Workload(concurrency=3, num_requests=7, prompt_tokens=5, output_tokens=9, seed=1)


class InBytes(Workload):
    """Prompts of the fake tokenizer's vocabulary."""

    def prompt(self, number: int) -> list[int]:
        return [token_id % 256 for token_id in super().prompt(number)]


@pytest.fixture(scope="module")
def runner() -> FakeRunner:
    """Slow enough that tokens come one by one."""
    return FakeRunner(says("Because it is so. " * 9), before_step=lambda _: time.sleep(0.001))


@pytest.fixture(scope="module")
def address(runner: FakeRunner) -> Iterator[Address]:
    with serve(build(runner)) as server:
        yield Address(server.host, server.port, "fake")


def in_bytes(**changes: int) -> InBytes:
    fields = {"concurrency": 3, "num_requests": 7, "prompt_tokens": 5, "output_tokens": 9, "seed": 1}
    return InBytes(**(fields | changes))


def test_every_request_is_answered_in_full(address, runner):
    runner.batches.clear()

    figures = measure(address, in_bytes())

    assert figures.output_tokens_per_second * figures.wall == pytest.approx(7 * 9)
    assert figures.total_tokens_per_second * figures.wall == pytest.approx(7 * (9 + 5))
    assert 0 < figures.time_to_first_token < figures.wall
    assert 0 < figures.gap_median <= figures.gap_99 < figures.wall
    assert figures.client_cpu > 0
    opened = [slot for batch in runner.batches for slot in batch.opened]
    assert [slot.num_prompt_tokens for slot in opened] == [5] * 7


@pytest.mark.parametrize("concurrency", [1, 2, 4])
def test_as_many_run_at_once_as_there_are_workers(address, runner, concurrency):
    runner.batches.clear()

    measure(address, in_bytes(concurrency=concurrency, num_requests=3 * concurrency))

    assert max(len(batch.chunks) for batch in runner.batches) == concurrency


def test_a_refusal_shows_the_servers_words(address):
    with pytest.raises(PeerError) as raised:
        measure(Address(address.host, address.port, "nobody"), in_bytes(num_requests=1))
    assert raised.match("refused: .*no such model")


async def test_an_answer_of_another_length_is_an_error():
    async with scripted(Stream([0.001] * 8)) as server:
        with pytest.raises(PeerError, match="asked for 9 tokens, got 8"):
            await asyncio.to_thread(measure, Address("127.0.0.1", server.port, "any"), WORKLOAD)


def test_a_server_that_is_not_there_is_an_error(address):
    with pytest.raises(PeerError) as raised:
        measure(Address(address.host, 1, "fake"), in_bytes(num_requests=1))
    assert raised.match("unreachable")


def test_no_two_prompts_begin_alike():
    others = (WORKLOAD, WORKLOAD.warm_up(), in_bytes(seed=2), in_bytes(concurrency=4))
    prompts = [workload.prompt(number)[:3] for workload in others for number in range(7)]

    assert len(set(map(tuple, prompts))) == len(prompts)
    assert WORKLOAD.prompt(3) == WORKLOAD.prompt(3)


def figures(*rates: float) -> list[Figures]:
    """Of a single request that gave so many tokens in a second, and its first after a tenth of one."""
    return [Figures.of([Answer(0.0, (0.1, 1.0), 10, int(rate))]) for rate in rates]


def test_ratios_are_of_medians_and_say_how_many_times_better():
    decode, ttft = Cell("decode", 4, 128, 128), Cell("ttft", 1, 1024, 16)
    ours = [Sample("slotwise", cell, 0, one, 0.0) for cell in (decode, ttft) for one in figures(90, 200, 210)]
    theirs = [Sample("peer", cell, 0, one, 0.5) for cell in (decode, ttft) for one in figures(100, 50, 999)]

    lines = table([*ours, *theirs]).splitlines()

    assert medians([*ours, *theirs], decode) == {"slotwise": 200, "peer": 100}
    assert lines[0] == "| measure | slotwise | peer |"
    assert lines[2] == "| output tok/s, prompt 128, 128 out, c=4 | 200 | 100 (2.00×) |"
    assert lines[3].endswith("c=1 | 100 | 100 (1.00×) |")
    assert lines[-1].startswith("6 of 12 figures were taken while others")
    assert ttft.times_better(ours=50, theirs=150) == 3


def test_the_short_mode_asks_each_worker_once():
    assert cells(["ttft", "decode"], [1, 32]) == [
        Cell("decode", 1, 128, 128),
        Cell("decode", 32, 128, 128),
        Cell("ttft", 1, 1024, 16),
    ]
    assert [cell.workload(1, 0, 0.0).num_requests for cell in cells(["decode"], [1, 32])] == [1, 32]
    assert [cell.workload(2, 0, 0.0).num_requests for cell in cells(["decode"], [1, 4, 32])] == [6, 8, 64]


def test_a_peer_is_what_was_named(monkeypatch):
    for name in ("LLAMA_SERVER", "LLAMA_MODEL", "VLLM", "OPENVINO"):
        monkeypatch.delenv(name, raising=False)
    assert peers(parser().parse_args([])) == []

    monkeypatch.setenv("LLAMA_SERVER", "llama-server")
    words = "--llama-model a.gguf b.gguf --openvino python --openvino-model c"
    assert [peer.name for peer in peers(parser().parse_args(words.split()))] == [
        "llama-server a",
        "llama-server b",
        "OpenVINO c",
    ]
