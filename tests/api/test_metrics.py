"""GET /metrics, from the engine's reports and from a running server."""

from prometheus_client.parser import text_string_to_metric_families

from app.api.metrics import Metrics
from app.engine.report import StepReport
from app.engine.request import FinishReason
from tests.api.api_parts import asking, build

COUNTERS = {
    "slotwise_prompt_tokens_total",
    "slotwise_generation_tokens_total",
    "slotwise_preemptions_total",
    "slotwise_isolation_failures_total",
}
GAUGES = {
    "slotwise_requests_running",
    "slotwise_requests_waiting",
    "slotwise_kv_blocks_used",
    "slotwise_kv_blocks_total",
}
HISTOGRAMS = {
    "slotwise_time_to_first_token_seconds",
    "slotwise_inter_token_latency_seconds",
    "slotwise_step_seconds",
    "slotwise_queue_seconds",
}


def samples(text: str) -> dict[str, float]:
    families = text_string_to_metric_families(text)
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def report(**fields) -> StepReport:
    levels = {"num_running": 0, "num_waiting": 0, "blocks_used": 0, "num_blocks": 8, "num_preemptions": 0}
    return StepReport(**(levels | fields))


def counted(*reports: StepReport) -> dict[str, float]:
    metrics = Metrics()
    for one in reports:
        metrics.observe(one)
    return samples(metrics.exposition().body.decode())


def test_every_name_is_there_from_the_start():
    names = counted()

    assert names.keys() >= COUNTERS | GAUGES | {name + "_count" for name in HISTOGRAMS}
    assert {name for name in names if name.startswith("slotwise_requests_total")} == {
        f"slotwise_requests_total{{{outcome}}}" for outcome in ("stop", "length", "abort", "error", "shutdown")
    }
    assert {value for name, value in names.items() if not name.partition("{")[0].endswith("_created")} == {0}


def test_levels_are_those_of_the_last_report():
    seen = counted(report(num_running=3, blocks_used=7), report(num_running=1, num_waiting=2, blocks_used=4))

    assert seen["slotwise_requests_running"] == 1
    assert seen["slotwise_requests_waiting"] == 2
    assert seen["slotwise_kv_blocks_used"] == 4
    assert seen["slotwise_kv_blocks_total"] == 8


def test_what_happened_adds_up():
    stop, length = FinishReason.STOP, FinishReason.LENGTH
    seen = counted(
        report(num_prompt_tokens=5, num_generated_tokens=2, num_preemptions=1, finished=(stop, length)),
        report(num_prompt_tokens=1, num_generated_tokens=4, num_preemptions=3, finished=(stop,)),
    )

    assert seen["slotwise_prompt_tokens_total"] == 6
    assert seen["slotwise_generation_tokens_total"] == 6
    assert seen["slotwise_preemptions_total"] == 3
    assert seen["slotwise_requests_total{stop}"] == 2
    assert seen["slotwise_requests_total{length}"] == 1
    assert seen["slotwise_requests_total{abort}"] == 0


def test_times_are_observed_each():
    seen = counted(
        report(step_seconds=0.002, queue_seconds=(0.003,), ttft_seconds=(0.4, 0.002), inter_token_seconds=(0.02,) * 3),
        report(step_seconds=None),
    )

    assert seen["slotwise_step_seconds_count"] == 1
    assert seen["slotwise_step_seconds_bucket{0.0025}"] == 1
    assert seen["slotwise_step_seconds_bucket{0.001}"] == 0
    assert seen["slotwise_queue_seconds_sum"] == 0.003
    assert seen["slotwise_time_to_first_token_seconds_count"] == 2
    assert seen["slotwise_time_to_first_token_seconds_bucket{0.005}"] == 1
    assert seen["slotwise_inter_token_latency_seconds_count"] == 3


def test_two_servers_in_a_process_count_apart():
    metrics, other = Metrics(), Metrics()
    metrics.observe(report(num_prompt_tokens=5))

    assert samples(other.exposition().body.decode())["slotwise_prompt_tokens_total"] == 0


async def test_a_server_counts_what_it_answers():
    async with asking(build()) as client:
        await client.post("/v1/completions", json={"prompt": [1, 2, 3], "n": 2, "max_tokens": 4})
        answer = await client.get("/metrics")

    seen = samples(answer.text)
    assert answer.headers["content-type"].startswith("text/plain")
    assert seen["slotwise_requests_total{length}"] == 2
    assert seen["slotwise_prompt_tokens_total"] == 6
    assert seen["slotwise_generation_tokens_total"] == 8
    assert seen["slotwise_time_to_first_token_seconds_count"] == 2
    assert seen["slotwise_inter_token_latency_seconds_count"] == 6
    assert seen["slotwise_kv_blocks_used"] == 0
