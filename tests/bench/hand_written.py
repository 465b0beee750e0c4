"""The result of a load as app/bench/metrics.py writes one, by hand: who reads the tests knows every number in it."""

from typing import Any

NAMES = {"ttft": 100.0, "tpot": 20.0, "itl": 19.0, "e2el": 2000.0}
STATISTICS = {"mean": 1.25, "median": 1.0, "std": 0.2, "p50": 1.0, "p90": 2.0, "p95": 2.5, "p99": 3.0, "max": 4.0}


def latencies(scale: float = 1.0) -> dict[str, float | None]:
    """p99 of the time to first token is 300 ms, and so on."""
    return {
        f"{statistic}_{name}_ms": middle * factor * scale
        for name, middle in NAMES.items()
        for statistic, factor in STATISTICS.items()
    }


def request(number: int, **more: Any) -> dict[str, Any]:
    """Scheduled at its number in seconds, sent at once, first token after 0.1 s, ended after 2 s."""
    at = float(number)
    return {
        "number": number,
        "scheduled": at,
        "sent": at,
        "first": at + 0.1,
        "ended": at + 2.0,
        "prompt_tokens": 32,
        "output_tokens": 96,
        "failure": None,
        "cancelled": False,
        "queue_s": None,
        "prefill_s": None,
    } | more


def load(**changes: Any) -> dict[str, Any]:
    return {
        "date": "20261124-120000",
        "backend": "openai",
        "endpoint_type": "completions",
        "base_url": "http://127.0.0.1:8000",
        "model_id": "minimind",
        "request_rate": "inf",
        "burstiness": 1.0,
        "max_concurrency": 16,
        "num_prompts": 200,
        "duration": 12.5,
        "completed": 196,
        "failed": 3,
        "cancelled": 1,
        "failures": {"timeout": 2, "no usage": 1},
        "failure_messages": {"timeout": "no end after 600 s"},
        "total_input_tokens": 6400,
        "total_output_tokens": 19200,
        "request_throughput": 15.68,
        "request_goodput": 12.0,
        "goodput": {"ttft": 500.0},
        "output_throughput": 1536.0,
        "steady_output_throughput": 1600.0,
        "peak_output_throughput": 1700.0,
        "total_token_throughput": 2048.0,
        **latencies(),
        "definitions": {"ttft": "Time to first token: from the scheduled send time."},
        "timeline": [request(0), request(1)],
        "seconds": [{"t": 0.0, "output_tokens": 1500.0}, {"t": 1.0, "output_tokens": 1700.0}],
        "ttft_buckets": {"edges": [50.0, 100.0, 200.0, 400.0], "counts": [1, 6, 3]},
        "itl_buckets": {"edges": [10.0, 20.0, 40.0], "counts": [30, 10]},
        "warnings": [],
        "client": {"cpu_share": 0.08, "loop_lag_p99_ms": 1.5, "late_sends_p99_ms": 0.5, "warnings": []},
        "server": {
            "kind": "slotwise",
            "samples": [
                {"t": 0.0, "running": 0, "waiting": 0, "kv_used": 0, "kv_total": 400},
                {"t": 1.0, "running": 16, "waiting": 2, "kv_used": 100, "kv_total": 400},
            ],
            "batch_avg": 14.2,
            "queue_max": 3,
            "kv_max": 0.25,
            "queue_s": 1.0,
            "prefill_s": 1.0,
            "decode_s": 8.0,
        },
    } | changes
