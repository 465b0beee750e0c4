"""What each figure is: of records with round numbers, whose figures anyone can work out."""

from typing import Any

import pytest

from app.bench import tally as tally_module
from app.bench.metrics import DEFINITIONS, result
from app.bench.records import Failure, Record, RunResult, RunSettings
from app.bench.tally import Tally
from app.bench.throughput import Throughput


def record(number: int = 0, **fields: Any) -> Record:
    """Due at 1 s, sent at 1.25, tokens at 2, 3 and 5 s."""
    usual = {
        "scheduled": 1.0,
        "sent": 1.25,
        "first": 2.0,
        "ended": 5.0,
        "prompt_tokens": 10,
        "output_tokens": 3,
        "gaps": (1.0, 2.0),
    }
    return Record(**{"number": number} | usual | fields)


def figures(*records: Record, duration: float = 10.0, **settings: Any) -> RunResult:
    run = RunSettings("http://localhost", "model", **settings)
    tally = Tally(run)
    for one in records:
        tally.add(one)
    return result(run, tally, Throughput(), duration, max_concurrent=1)


def test_latencies_count_from_the_scheduled_time_and_tpot_from_the_first_token() -> None:
    found = figures(record())
    assert found["mean_ttft_ms"] == pytest.approx(1000)
    assert found["mean_tpot_ms"] == pytest.approx(3000 / 2)
    assert found["mean_e2el_ms"] == pytest.approx(4000)
    assert found["mean_itl_ms"] == pytest.approx(1500)
    assert found["max_itl_ms"] == pytest.approx(2000)


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    found = figures(record(output_tokens=1, gaps=()), record(1))
    assert found["mean_tpot_ms"] == pytest.approx(1500)


def test_without_a_stream_there_is_an_end_to_end_latency_and_nothing_else() -> None:
    found = figures(record(first=None, gaps=()))
    assert found["mean_e2el_ms"] == pytest.approx(4000)
    assert (found["mean_ttft_ms"], found["p99_tpot_ms"], found["max_itl_ms"]) == (None, None, None)


def test_statistics_have_the_names_of_vllm_bench_serve() -> None:
    found = figures(record(), percentiles=(50.0, 99.0, 99.9))
    for latency in ("ttft", "tpot", "itl", "e2el"):
        for statistic in ("mean", "median", "std", "p50", "p99", "p99.9", "max"):
            assert isinstance(found[f"{statistic}_{latency}_ms"], float)
    names = "date backend model_id num_prompts request_rate burstiness max_concurrency duration completed failed"
    names += " total_input_tokens total_output_tokens request_throughput request_goodput output_throughput"
    names += " total_token_throughput max_output_tokens_per_s max_concurrent_requests"
    assert set(names.split()) <= set(found)


def test_throughputs_are_of_completed_requests_over_the_duration() -> None:
    found = figures(record(), record(1), record(2, failure=Failure.BROKEN), record(3, is_cancelled=True))
    assert (found["completed"], found["failed"], found["cancelled"], found["num_prompts"]) == (2, 1, 1, 4)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (20, 6)
    assert found["request_throughput"] == pytest.approx(0.2)
    assert found["output_throughput"] == pytest.approx(0.6)
    assert found["total_token_throughput"] == pytest.approx(2.6)


def test_a_piece_may_hold_several_tokens() -> None:
    assert figures(record(output_tokens=12))["tokens_per_piece"] == 4.0


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        ({"ttft": 1000.5}, 1),
        ({"ttft": 999.5}, 0),
        ({"ttft": 1001, "tpot": 1501, "e2el": 4001}, 1),
        ({"ttft": 1001, "tpot": 1499}, 0),
        ({"ttft": 1001, "e2el": 3999}, 0),
    ],
)
def test_goodput_takes_every_limit(limits: dict[str, float], good: int) -> None:
    found = figures(record(), goodput=limits)
    assert found["request_goodput"] == pytest.approx(good / 10)


def test_a_failed_request_is_not_a_good_one() -> None:
    found = figures(record(), record(1, failure=Failure.TIMEOUT), goodput={"ttft": 5000.0})
    assert found["goodput_share"] == 0.5


def test_without_limits_there_is_no_goodput() -> None:
    assert figures(record())["request_goodput"] is None


def test_the_first_message_of_each_kind_of_failure_is_kept() -> None:
    failures = [Failure.REFUSED, Failure.TIMEOUT, Failure.REFUSED]
    found = figures(*(record(n, failure=kind, message=f"number {n}") for n, kind in enumerate(failures)))
    assert found["failures"] == {"refused": 2, "timeout": 1}
    assert found["failure_messages"] == {"refused": "number 0", "timeout": "number 1"}


def test_nothing_at_all_has_figures_too() -> None:
    found = figures(duration=0.0)
    assert (found["completed"], found["output_throughput"], found["mean_ttft_ms"]) == (0, 0.0, None)
    assert found["ttft_buckets"] == {"edges": [], "counts": []}


def test_the_timeline_is_a_sample_of_bounded_size_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally_module, "MAX_TIMELINE", 100)
    found = figures(*(record(number, scheduled=float(number)) for number in range(1000)))["timeline"]
    numbers = [entry["number"] for entry in found]
    assert len(set(numbers)) == 100
    assert numbers == sorted(numbers)
    assert 350 < sum(numbers) / 100 < 650, "from all of the run"


def test_histograms_hold_every_request_between_rising_edges() -> None:
    buckets = figures(*(record(n, first=1.0 + 0.01 * (n + 1)) for n in range(50)))["ttft_buckets"]
    assert sum(buckets["counts"]) == 50
    assert len(buckets["edges"]) == len(buckets["counts"]) + 1
    assert buckets["edges"] == sorted(buckets["edges"])
    assert buckets["edges"][0] <= 10
    assert buckets["edges"][-1] >= 500


def test_every_latency_has_its_definition_in_the_result() -> None:
    assert {"ttft", "tpot", "itl", "e2el", "request_goodput", "steady_output_throughput"} <= set(DEFINITIONS)
    assert figures()["definitions"] == DEFINITIONS


def test_a_users_words_and_the_ramp_are_in_the_result() -> None:
    found = figures(label="night", metadata={"gpu": "none"}, ramp="linear", ramp_from=1.0, ramp_to=5.0)
    assert (found["label"], found["gpu"]) == ("night", "none")
    assert (found["ramp_up_strategy"], found["ramp_up_start_rps"], found["ramp_up_end_rps"]) == ("linear", 1.0, 5.0)
    assert found["request_rate"] == "inf"
