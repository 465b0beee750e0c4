"""Sweeps over simulated servers, and the command on a live one."""

import asyncio
import json
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

from app.bench.assertions import parse_assertion
from app.bench.errors import BadWorkload
from app.bench.records import RunSettings
from app.bench.sweep import CONCURRENCIES, MAX_LOADS, Sweep, add_arguments, read_ladder, run
from tests.api.api_parts import build
from tests.bench.simulated_loads import Closed, Open
from tests.fakes import FakeRunner
from tests.live_server import LiveServer, serve

SETTINGS = RunSettings("http://nowhere", "fake", num_prompts=10)


# ── up a ladder ──


async def test_concurrencies_are_tried_from_the_lowest_and_each_with_prompts_of_its_own():
    server = Closed()
    found = await Sweep(SETTINGS, "concurrency", server).over([4, 1, 2])

    assert server.loads == [1, 2, 4]
    assert server.numbers == [0, 1, 2]
    assert [step.load for step in found.steps] == [1, 2, 4]
    assert not any(step.is_oversaturated for step in found.steps)


async def test_a_ladder_ends_where_more_at_once_brings_only_waiting():
    server = Closed(num_slots=8)
    found = await Sweep(SETTINGS, "concurrency", server).over(CONCURRENCIES)

    assert server.loads == [1, 2, 4, 8, 16]
    assert [step.is_oversaturated for step in found.steps] == [False] * 4 + [True]
    assert found.knee is not None
    assert found.knee.load == 8


async def test_a_ladder_goes_on_where_a_load_gains_nothing_but_costs_no_waiting_either():
    """As where a server has a moment of weakness."""

    async def measure(settings, load, **_):
        throughput = {1: 100.0, 2: 101.0, 4: 300.0}[settings.concurrency]
        return {"output_throughput": throughput, "mean_ttft_ms": 12.0, "failed": 0, "completed": 1}

    found = await Sweep(SETTINGS, "concurrency", measure).over([1, 2, 4])
    assert [step.is_oversaturated for step in found.steps] == [False, False, False]


async def test_a_ladder_of_rates_ends_at_overload_and_does_not_wait_for_its_end():
    server = Open(capacity=20)
    found = await Sweep(SETTINGS, "rate", server).over([8, 16, 40, 80])

    assert server.rates == [8, 16, 40]
    assert [step.is_oversaturated for step in found.steps] == [False, False, True]
    assert server.lasted[1] > 39
    assert server.lasted[2] < 15


async def test_a_ladder_ends_when_the_user_ends_it():
    stop, server = asyncio.Event(), Closed()
    server.after_each = lambda: stop.set() if len(server.loads) == 2 else None
    found = await Sweep(SETTINGS, "concurrency", server, stop=stop).over(CONCURRENCIES)

    assert len(found.steps) == 2


async def test_the_user_s_stop_ends_the_load_that_runs():
    user, loads = asyncio.Event(), []

    async def measure(settings, load, *, on_record, on_progress, stop):
        loads.append(load)
        user.set()
        await asyncio.wait_for(stop.wait(), 5)  # without any progress, as while it warms up
        return {"failed": 0, "completed": 1}

    await Sweep(SETTINGS, "rate", measure, stop=user).over([1.0, 2.0])
    assert loads == [0]


async def test_a_ladder_ends_when_nothing_is_answered():
    loads = []

    async def measure(settings, load, **_):
        loads.append(settings.concurrency)
        return {"failed": 20, "completed": 0}

    found = await Sweep(SETTINGS, "concurrency", measure).over([1, 2, 4])
    assert loads == [1]
    assert found.steps[0].misses == ("20 requests failed",)


# ── the highest load within limits ──


async def test_the_highest_concurrency_that_brings_more_than_waiting_is_found_exactly():
    server = Closed(num_slots=8)
    found = await Sweep(SETTINGS, "concurrency", server, [parse_assertion("p99_ttft<500ms")]).highest(start=1)

    assert found.highest is not None
    assert found.highest.load == 8
    assert len(server.loads) == len(set(server.loads)) <= MAX_LOADS


async def test_limits_rule_where_the_server_is_not_yet_full():
    server = Closed(num_slots=8)
    limits = [parse_assertion("output_throughput<650")]
    found = await Sweep(SETTINGS, "concurrency", server, limits).highest(start=32)

    assert found.highest is not None
    assert found.highest.load == 6


async def test_failures_miss_unless_a_limit_allows_them():
    strict = await Sweep(SETTINGS, "concurrency", Closed(64, failed_from=5)).highest(start=1)
    lenient = await Sweep(SETTINGS, "concurrency", Closed(64, failed_from=5), [parse_assertion("failed<=3")]).over(
        [4, 8]
    )

    assert strict.highest is not None
    assert strict.highest.load == 4
    assert "3 requests failed" in list(strict.lines())[-1] or any(
        "3 requests failed" in line for line in strict.lines()
    )
    assert lenient.highest is not None
    assert lenient.highest.load == 8


async def test_the_highest_rate_that_a_server_can_go_on_with_is_found_within_a_tenth_or_so():
    server = Open(capacity=20)
    found = await Sweep(SETTINGS, "rate", server).highest(start=1)

    assert found.highest is not None
    assert 15 <= found.highest.load <= 26  # overload by a tenth cannot be told from chance in 40 s


async def test_a_search_that_finds_nothing_good_ends():
    server = Closed(failed_from=0)
    assert (await Sweep(SETTINGS, "concurrency", server).highest(start=64)).highest is None
    assert server.loads == [64, 32, 16, 8, 4, 2, 1]


async def test_a_search_without_an_end_is_ended():
    server = Closed(num_slots=1 << 30)
    found = await Sweep(SETTINGS, "concurrency", server).highest(start=1)

    assert len(found.steps) == MAX_LOADS


# ── the command ──


def options(*words: str) -> Namespace:
    parser = ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("words", "ladder"),
    [
        ((), ("concurrency", CONCURRENCIES)),
        (("--concurrency", "2,8"), ("concurrency", (2, 8))),
        (("--find-max",), ("concurrency", (1,))),
        (("--request-rate", "0.5,4"), ("rate", (0.5, 4.0))),
    ],
)
def test_the_ladder_is_of_concurrencies_or_of_rates(words, ladder):
    assert read_ladder(options(*words)) == ladder


@pytest.mark.parametrize(
    "words",
    [
        ("--request-rate", "inf"),
        ("--ramp-up-strategy", "linear", "--ramp-up-start-rps", "1", "--ramp-up-end-rps", "2"),
    ],
)
def test_what_is_no_ladder_is_refused(words):
    with pytest.raises(BadWorkload):
        read_ladder(options(*words))


def sweep(server: LiveServer, *words: str) -> int:
    lengths = ("--input-len", "8", "--output-len", "12", "--num-prompts", "24", "--ignore-eos")
    return run(options("--base-url", server.url, *lengths, *words))


def test_the_command_sweeps_a_live_server_and_saves_every_load(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    runner = FakeRunner(before_step=lambda batch: time.sleep(0.002))
    with serve(build(runner, max_num_seqs=4)) as server:
        status = sweep(server, "--concurrency", "4,1,2", "--result-filename", str(tmp_path / "sweep.json"))

    saved = json.loads((tmp_path / "sweep.json").read_text())["runs"]
    assert status == 0
    assert [result["max_concurrency"] for result in saved] == [1, 2, 4]
    assert [result["completed"] for result in saved] == [24, 24, 24]
    assert [result["sweep"]["missed_limits"] for result in saved] == [[], [], []]
    assert "times the throughput of 1 at once" in capfd.readouterr().out


def test_the_command_searches_and_says_what_it_found(capfd: pytest.CaptureFixture[str]):
    with serve(build(FakeRunner(before_step=lambda batch: time.sleep(0.002)), max_num_seqs=4)) as server:
        assert sweep(server, "--find-max", "--concurrency", "4", "--limit", "p97_ttft<0.001ms") == 0

    said = capfd.readouterr().out
    assert "no load of these keeps to p97_ttft<0.001ms" in said
    assert "1 at once: FAILS: p97_ttft<0.001ms" in said
    assert "there is no such figure" not in said


def test_an_assertion_that_fails_is_the_exit_status(capfd: pytest.CaptureFixture[str]):
    with serve(build()) as server:
        assert sweep(server, "--concurrency", "2", "--assert", "failed==0", "--assert", "max_ttft<0.001ms") == 1


@pytest.mark.parametrize("words", [("--limit", "p99_tttf<500ms"), ("--request-rate", "inf"), ("--concurrency", "2")])
def test_mistakes_are_a_line_each(words, capfd: pytest.CaptureFixture[str]):
    with serve(build()) as server:
        pass
    assert sweep(server, *words) == 2
    assert capfd.readouterr().err.startswith("slotwise bench sweep: error: ")
