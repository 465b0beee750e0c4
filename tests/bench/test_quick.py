"""`bench quick` on servers whose speed is known, and the command on a live one."""

import asyncio
import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from app.bench import quick as quick_module
from app.bench.errors import Unusable
from app.bench.quick import (
    CONCURRENCIES,
    INPUT_LENGTHS,
    OUTPUT_LENGTHS,
    SECONDS_OF_LOAD,
    SECONDS_TO_END,
    QuickResult,
    add_arguments,
    lengths_for,
    quick,
    run,
)
from app.bench.records import Progress, Record, RunResult, RunSettings
from tests.api.api_parts import build
from tests.fakes import FakeRunner
from tests.live_server import serve

SETTINGS = RunSettings("http://nowhere", "fake", duration=60, request_rate=3.0, warmup=5, timeout=600)


class Server:
    """Reads a prompt's token in `read_ms` and writes one in `write_ms`, for all that are there at once."""

    def __init__(self, read_ms: float = 1.0, write_ms: float = 10.0, knows_ignore_eos: bool = True) -> None:
        self.read_ms = read_ms
        self.write_ms = write_ms
        self.knows_ignore_eos = knows_ignore_eos
        self.asked: list[RunSettings] = []
        self.loads: list[int] = []
        self.lasted: list[float] = []

    async def __call__(
        self,
        settings: RunSettings,
        load: int,
        *,
        on_record: Callable[[Record], None],
        on_progress: Callable[[Progress], None],
        stop: asyncio.Event,
    ) -> RunResult:
        self.asked.append(settings)
        self.loads.append(load)
        now = 0.0
        while not stop.is_set() and now < 30.0:  # longer than it should
            await asyncio.sleep(0)
            now += 0.25
            on_progress(Progress(now, 1, 0, 0, 1, 0, 0, 0.0, None))
        self.lasted.append(now)
        if settings.ignore_eos and not self.knows_ignore_eos:
            return {"completed": 0, "failed": 1, "failure_messages": {"refused": "status 400: ignore_eos"}}
        assert settings.input_len is not None
        assert settings.concurrency is not None
        return {
            "completed": 4,
            "max_concurrency": settings.concurrency,
            "total_input_tokens": 4 * settings.input_len,
            "median_ttft_ms": self.read_ms * settings.input_len,
            "median_tpot_ms": self.write_ms if settings.output_len != 1 else None,
            "output_throughput": settings.concurrency * 1000 / self.write_ms,
        }


async def test_the_loads_are_one_of_reading_and_three_of_writing():
    server = Server()
    found = await quick(SETTINGS, server)
    probe, reading, *writing = server.asked

    assert (probe.num_prompts, probe.warmup, probe.duration) == (1, 1, None)
    assert (reading.concurrency, reading.input_len, reading.output_len) == (1, 512, 1)
    assert [load.concurrency for load in writing] == list(CONCURRENCIES)
    assert {(load.input_len, load.output_len) for load in writing} == {(128, 100)}
    assert {(load.duration, load.num_prompts, load.warmup) for load in (reading, *writing)} == {(8.0, None, 0)}
    assert {load.request_rate for load in server.asked} == {float("inf")}
    assert len(set(server.loads)) == 5
    assert len(found.runs()) == 4


async def test_each_load_is_ended_in_time():
    server = Server()
    await quick(SETTINGS, server)

    limit = SECONDS_OF_LOAD + SECONDS_TO_END
    assert all(limit < seconds < limit + 1 for seconds in server.lasted)
    assert {load.timeout for load in server.asked} == {limit}
    assert 4 * SECONDS_OF_LOAD < 45


async def test_a_server_that_refuses_ignore_eos_is_asked_without_it():
    server = Server(knows_ignore_eos=False)
    await quick(SETTINGS, server)

    assert [load.ignore_eos for load in server.asked] == [True, False, False, False, False, False]


async def test_a_server_that_answers_nothing_is_unusable_and_says_why():
    async def refuse(settings, load, **_):
        return {"completed": 0, "failure_messages": {"refused": "status 401: no key"}}

    with pytest.raises(Unusable, match="status 401: no key"):
        await quick(SETTINGS, refuse)


async def test_after_ctrl_c_no_further_load_begins():
    stop, server = asyncio.Event(), Server()

    async def interrupted(settings, load, **others):
        if load == 3:
            stop.set()
        return await server(settings, load, **others)

    found = await quick(SETTINGS, interrupted, stop)

    assert len(server.asked) == 3
    assert server.lasted[2] < 1
    assert len(found.runs()) == 2


@pytest.mark.parametrize(
    ("probe", "lengths"),
    [
        ({"median_ttft_ms": 64.0, "median_tpot_ms": 20.0}, (500, 50)),
        ({"median_ttft_ms": 1.0, "median_tpot_ms": 0.5}, (INPUT_LENGTHS[1], OUTPUT_LENGTHS[1])),
        ({"median_ttft_ms": 9000.0, "median_tpot_ms": 2000.0}, (INPUT_LENGTHS[0], OUTPUT_LENGTHS[0])),
        ({"median_e2el_ms": 100.0}, (320, OUTPUT_LENGTHS[1])),  # an answer of one token, in one piece
        ({}, (INPUT_LENGTHS[1], OUTPUT_LENGTHS[1])),
    ],
)
def test_lengths_are_such_that_a_request_takes_a_second(probe, lengths):
    assert lengths_for(probe) == lengths


async def test_what_it_found_is_a_line_for_each_load():
    found = await quick(SETTINGS, Server(read_ms=0.5, write_ms=20.0))

    assert found.prompt_throughput == 2000
    assert list(found.lines()) == [
        "reads 2,000 tok/s: the first token after a prompt of 512 takes 256 ms",
        "writes 50 tok/s for 1 at once; first token after 64 ms",
        "writes 200 tok/s for 4 at once, 50 tok/s each, 4.0 times as much as for one; first token after 64 ms",
        "writes 800 tok/s for 16 at once, 50 tok/s each, 16.0 times as much as for one; first token after 64 ms",
    ]
    assert found.runs()[0]["prompt_throughput"] == 2000


def test_a_load_in_which_nothing_came_to_its_end_says_why():
    nothing = {"completed": 0, "max_concurrency": 16, "output_throughput": 0.0, "failure_messages": {}}
    broken = nothing | {"failure_messages": {"broken": "the stream ended"}}
    too_long = {"completed": 0, "failure_messages": {"refused": "status 400: the prompt is too long"}}
    lines = list(QuickResult(too_long, (nothing, broken)).lines())

    assert lines == [
        "reads no prompt to its end: status 400: the prompt is too long",
        "writes nothing to its end for 16 at once: it is too slow for that",
        "writes nothing to its end for 16 at once: the stream ended",
    ]


def options(*words: str) -> Namespace:
    parser = ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_the_command_on_a_live_server(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(quick_module, "SECONDS_OF_LOAD", 0.25)
    runner = FakeRunner(before_step=lambda batch: time.sleep(0.001), num_blocks=4096, max_model_len=1024)
    with serve(build(runner, max_num_seqs=16)) as server:
        status = run(options("--base-url", server.url, "--result-filename", str(tmp_path / "quick.json")))

    said = capfd.readouterr().out
    saved = json.loads((tmp_path / "quick.json").read_text())["runs"]
    assert status == 0, said
    assert [result["max_concurrency"] for result in saved] == [1, 1, 4, 16]
    assert all(result["completed"] and not result["failed"] for result in saved)
    assert saved[0]["prompt_throughput"] > 0
    assert said.count("writes ") == 3
    assert said.count("reads ") == 1


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_a_server_that_is_not_there_is_a_line(endpoint, capfd: pytest.CaptureFixture[str]):
    with serve(build()) as server:
        pass
    assert run(options("--base-url", server.url, "--endpoint", endpoint)) == 2
    assert capfd.readouterr().err.startswith("slotwise bench quick: error: ")
