"""Loads on a server whose times are scripted: what is reported is what it did. In virtual time, so that a busy machine
changes nothing: what deviates is the client's mistake."""

import asyncio
import math
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest

from app.bench.errors import BadWorkload
from app.bench.records import Ask, Progress, Record, RunResult, RunSettings
from app.bench.run import run_load
from tests.bench.scripted_server import Exchange, Raw, Script, ScriptedServer, Stream, page, scripted
from tests.bench.virtual_time import in_virtual_time

TOLERANCE_MS = 0.05


def asks(**fields: Any) -> Iterator[Ask]:
    return (
        Ask(**{"number": number, "prompt": "p", "num_prompt_tokens": 3, "max_tokens": 5} | fields) for number in count()
    )


async def loaded(script: Script | Stream | Raw, **settings: Any) -> tuple[RunResult, ScriptedServer, list[Record]]:
    records: list[Record] = []
    async with scripted(script) as server:
        result = await run_load(RunSettings(server.url, "m", **settings), asks(), records.append)
    return result, server, records


def varied(number: int) -> Stream:
    """First tokens after 10 to 60 ms, then gaps of 5 to 25 ms; each request its own."""
    rng = np.random.default_rng(number)
    return Stream([rng.uniform(0.01, 0.06), *rng.uniform(0.005, 0.025, rng.integers(2, 12))])


def ttft(exchange: Exchange) -> float:
    return exchange.written[0] - exchange.arrived


def tpot(exchange: Exchange) -> float:
    return (exchange.written[-1] - exchange.written[0]) / (len(exchange.written) - 1)


def e2el(exchange: Exchange) -> float:
    return exchange.written[-1] - exchange.arrived


@in_virtual_time
async def test_percentiles_are_those_of_the_server() -> None:
    result, server, _ = await loaded(varied, concurrency=8, num_prompts=120)
    gaps = np.concatenate([np.diff(exchange.written) for exchange in server.exchanges])
    truth = {
        "ttft": np.array([ttft(exchange) for exchange in server.exchanges]),
        "tpot": np.array([tpot(exchange) for exchange in server.exchanges]),
        "e2el": np.array([e2el(exchange) for exchange in server.exchanges]),
        "itl": gaps,
    }
    assert (result["completed"], result["failed"]) == (120, 0)
    for name, seconds in truth.items():
        expected = {"mean": seconds.mean(), "median": np.median(seconds)}
        expected |= {f"p{percent}": np.percentile(seconds, percent) for percent in (50, 90, 95, 99)}
        for statistic, value in expected.items():
            found = result[f"{statistic}_{name}_ms"]
            assert found == pytest.approx(value * 1000, abs=TOLERANCE_MS), f"{statistic} of {name}"


@in_virtual_time
async def test_token_counts_and_throughput_are_those_of_usage() -> None:
    result, server, records = await loaded(varied, concurrency=4, num_prompts=40)
    tokens = sum(len(exchange.written) for exchange in server.exchanges)
    assert result["total_output_tokens"] == tokens
    assert result["total_input_tokens"] == 3 * 40
    assert result["output_throughput"] == pytest.approx(tokens / result["duration"])
    assert result["total_token_throughput"] == pytest.approx((tokens + 120) / result["duration"])
    assert result["request_throughput"] == pytest.approx(40 / result["duration"])
    assert result["duration"] == pytest.approx(max(record.ended for record in records))
    assert result["tokens_per_piece"] == 1.0


@in_virtual_time
async def test_a_closed_loop_has_as_many_in_flight_as_it_should_and_never_more() -> None:
    result, server, _ = await loaded(Stream([0.01] * 3), concurrency=3, num_prompts=12)
    assert server.max_in_flight == result["max_concurrent_requests"] == 3
    assert result["max_concurrency"] == 3
    assert server.num_connections <= 4, "sockets are used again (and one was for /metrics)"


@in_virtual_time
async def test_the_steady_window_leaves_out_what_comes_before_and_after_the_even_load() -> None:
    """Two at a time, 20 tokens each; the last request comes alone, and at a tenth of the speed."""
    result, _, _ = await loaded(
        lambda number: Stream([0.1] * 10 if number == 8 else [0.01] * 20), concurrency=2, num_prompts=9
    )
    assert result["steady_output_throughput"] > 1.3 * result["output_throughput"]


@in_virtual_time
async def test_a_failure_does_not_begin_the_steady_window() -> None:
    """Two answers one after the other: nothing lies between the end of the first and the sending of the last."""
    answers = [page("503 Service Unavailable", b""), Stream([0.01] * 10), Stream([0.01] * 10)]
    result, _, _ = await loaded(answers.__getitem__, concurrency=1, num_prompts=3)
    assert result["steady_output_throughput"] is None


@in_virtual_time
async def test_where_all_are_sent_before_the_first_answer_there_is_no_steady_window() -> None:
    result, _, _ = await loaded(Stream([0.01] * 3), concurrency=3, num_prompts=3)
    assert result["steady_output_throughput"] is None


@in_virtual_time
async def test_a_duration_ends_the_sending_and_lets_answers_end() -> None:
    result, server, records = await loaded(Stream([0.02] * 4), concurrency=2, duration=0.3)
    assert result["completed"] == len(server.exchanges) == len(records) > 2
    assert all(record.sent < 0.3 for record in records)
    assert result["failed"] == 0


@in_virtual_time
async def test_warm_up_requests_count_for_nothing_and_are_not_asked_again() -> None:
    result, server, records = await loaded(Stream([0.0] * 2), concurrency=2, num_prompts=4, warmup=3)
    assert len(server.exchanges) == 7
    assert result["completed"] == 4
    assert sorted(record.number for record in records) == [3, 4, 5, 6]


@in_virtual_time
async def test_an_open_loop_sends_when_due_whatever_the_answers_do() -> None:
    result, server, records = await loaded(Stream([0.2]), request_rate=50.0, burstiness=math.inf, num_prompts=20)
    assert [record.scheduled for record in sorted(records, key=lambda record: record.number)] == pytest.approx(
        [number / 50 for number in range(20)]
    )
    assert all(record.sent > record.scheduled - 1e-6 for record in records), "and not before"
    assert server.max_in_flight > 5, "nobody waited for an answer"
    assert result["request_rate"] == 50.0


@in_virtual_time
async def test_a_wait_for_a_place_is_charged_to_the_first_token() -> None:
    """All are due at once and one is let in at a time: the second waits for the first. No coordinated omission."""
    result, server, records = await loaded(Stream([0.05]), request_rate=1e6, concurrency=1, num_prompts=4)
    assert server.max_in_flight == 1
    waits = [record.sent - record.scheduled for record in sorted(records, key=lambda record: record.number)]
    assert waits == sorted(waits)
    assert result["max_ttft_ms"] >= 190
    assert result["client"]["late_sends_p99_ms"] < result["max_ttft_ms"] / 4, "that is not the client's lateness"


@in_virtual_time
async def test_requests_that_the_client_holds_back_are_told_as_such() -> None:
    seen: list[Progress] = []
    async with scripted(Stream([1.0])) as server:
        settings = RunSettings(server.url, "m", request_rate=10, burstiness=math.inf, concurrency=2, num_prompts=20)
        await run_load(settings, asks(), on_progress=seen.append)
    at_two = next(progress for progress in seen if progress.elapsed >= 2.0)
    assert (at_two.in_flight, at_two.sent + at_two.held) == (2, 20)
    assert (seen[-1].in_flight, seen[-1].held) == (0, 0)


@in_virtual_time
async def test_goodput_counts_what_meets_every_limit() -> None:
    slow_start, slow, good = Stream([0.2, 0.0]), Stream([0.0, 0.2]), Stream([0.0, 0.0])
    result, _, _ = await loaded(
        [slow_start, slow, good, good].__getitem__, concurrency=1, num_prompts=4, goodput={"ttft": 100, "tpot": 100}
    )
    assert result["request_goodput"] == pytest.approx(2 / result["duration"])
    assert result["goodput_share"] == 0.5
    assert result["goodput"] == {"ttft": 100, "tpot": 100}


@in_virtual_time
async def test_failures_are_counted_by_kind_and_are_in_no_figure() -> None:
    answers = [
        Stream([0.0, 0.0]),
        page("503 Service Unavailable", b'{"error": {"message": "full"}}'),
        page("503 Service Unavailable", b"other"),
        Stream([0.0], tail=()),
        Stream([0.0], tail=(b"data: [DONE]\n\n",)),
        Raw(b"nonsense\r\n"),
    ]
    result, _, records = await loaded(answers.__getitem__, concurrency=1, num_prompts=6)
    assert (result["completed"], result["failed"], result["num_prompts"]) == (1, 5, 6)
    assert result["failures"] == {"refused": 2, "broken": 1, "no usage": 1, "nonsense": 1}
    assert result["failure_messages"]["refused"] == "status 503: full"
    assert result["total_output_tokens"] == 2
    assert len(records) == 6


@in_virtual_time
async def test_cancelled_requests_are_neither_completed_nor_failed() -> None:
    async with scripted(Stream([0.001] * 50)) as server:
        result = await run_load(RunSettings(server.url, "m", concurrency=2, num_prompts=4), asks(cancel_after=2))
    assert (result["cancelled"], result["completed"], result["failed"]) == (4, 0, 0)
    assert result["mean_ttft_ms"] is None


@in_virtual_time
async def test_a_run_that_is_stopped_gives_what_it_has() -> None:
    async with scripted(lambda number: Stream([0.0] if number < 5 else [30.0])) as server:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.3, stop.set)
        result = await run_load(RunSettings(server.url, "m", concurrency=2, num_prompts=100), asks(), stop=stop)
    assert (result["completed"], result["interrupted"]) == (5, 2)
    assert 0.3 <= result["duration"] < 5
    assert result["request_throughput"] == pytest.approx(5 / result["duration"])


@in_virtual_time
async def test_a_run_that_is_stopped_in_its_warm_up_has_nothing() -> None:
    async with scripted(Stream([30.0])) as server:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, stop.set)
        result = await run_load(RunSettings(server.url, "m", concurrency=2, num_prompts=4, warmup=2), asks(), stop=stop)
    assert result["completed"] == 0
    assert result["duration"] < 5


@in_virtual_time
async def test_a_server_that_is_gone_ends_the_run_with_a_warning() -> None:
    async with scripted(Stream([0.0])) as server:
        pass
    result = await run_load(RunSettings(server.url, "m", concurrency=4, duration=60.0), asks())
    assert result["completed"] == 0
    assert result["failures"]["unreachable"] >= 20
    assert result["duration"] < 30
    assert any("found no server" in warning for warning in result["client"]["warnings"])


@in_virtual_time
async def test_lengths_that_are_not_as_asked_are_warned_about() -> None:
    async with scripted(Stream([0.0] * 4, prompt_tokens=5)) as server:
        result = await run_load(RunSettings(server.url, "m", concurrency=1, num_prompts=2, ignore_eos=True), asks())
    prompts, answers = (warning for warning in result["client"]["warnings"] if "as long as asked" in warning)
    assert "2 of 2 prompts" in prompts
    assert "5 tokens, not 3" in prompts
    assert "4 tokens, not 5" in answers


@in_virtual_time
async def test_progress_is_told_while_it_runs_and_at_the_end() -> None:
    told: list[Progress] = []
    async with scripted(Stream([0.05] * 4)) as server:
        await run_load(RunSettings(server.url, "m", concurrency=2, num_prompts=6), asks(), on_progress=told.append)
    assert len(told) >= 2
    assert told[-1].share_done == 1.0
    assert (told[-1].completed, told[-1].in_flight, told[-1].output_pieces) == (6, 0, 24)
    assert [progress.completed for progress in told] == sorted(progress.completed for progress in told)


@in_virtual_time
async def test_a_result_tells_the_client_and_the_requests() -> None:
    result, _, _ = await loaded(Stream([0.01] * 3), concurrency=2, num_prompts=6)
    assert result["client"]["cpu_share"] > 0
    assert result["client"]["loop_lag_p99_ms"] is not None
    assert [entry["number"] for entry in result["timeline"]] == list(range(6))
    assert sum(second["output_tokens"] for second in result["seconds"]) == 18
    assert sum(result["ttft_buckets"]["counts"]) == 6
    assert sum(result["itl_buckets"]["counts"]) == 12
    assert result["definitions"]["ttft"].startswith("Time to first token")
    assert "server.queue_max" in result["definitions"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "a number of prompts or a duration"),
        ({"duration": 1.0}, "a concurrency or a request rate"),
        ({"ramp": "linear", "ramp_to": 5.0, "num_prompts": 3}, "two rates above zero"),
    ],
)
@in_virtual_time
async def test_settings_that_make_no_load_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadWorkload, match=message):
        await run_load(RunSettings("http://localhost", "m", **settings), asks())
