"""From records to figures: what each metric is, in a sentence and in code, under the names of `vllm bench serve`.

Nothing is measured or added up here: that is done in app/bench/tally.py and app/bench/throughput.py.
"""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from app.bench.distribution import Distribution
from app.bench.records import RunResult, RunSettings
from app.bench.tally import Tally
from app.bench.throughput import Throughput

NUM_EDGES = 61  # of a histogram

DEFINITIONS = MappingProxyType(
    {
        "ttft": "Time to first token: from the scheduled send time to the first piece of text that is not empty. A"
        " request that the client sends late, or holds back because of --max-concurrency, is charged for the wait.",
        "tpot": "Time per output token: from the first token to the last, divided by the output tokens less one.",
        "itl": "Inter-token latency: the time between one piece of streamed text and the next. A piece may hold several"
        " tokens; tokens_per_piece tells how many on average.",
        "e2el": "End-to-end latency: from the scheduled send time to the last token.",
        "duration": "From the first send time to the end of the last answer, in seconds.",
        "request_throughput": "Completed requests a second, over the duration.",
        "output_throughput": "Output tokens of completed requests a second, over the duration, as the answers' usage"
        " counts them.",
        "total_token_throughput": "Prompt and output tokens of completed requests a second, over the duration.",
        "steady_output_throughput": "Output tokens a second while the load is even: from the first answer's end to the"
        " last request's sending. Absent where every request was sent before the first answer.",
        "peak_output_throughput": "Output tokens in the best second.",
        "request_goodput": "Completed requests a second that meet every limit of --goodput.",
        "cancelled": "Requests that the client hung up on purpose (--cancel-fraction): neither completed nor failed.",
        "cpu_share": "Processor time of the client, in cores.",
        "loop_lag_p99_ms": "How late the client looks at what comes.",
        "late_sends_p99_ms": "How late the client sends.",
    }
)


def result(
    settings: RunSettings, tally: Tally, throughput: Throughput, duration: float, max_concurrent: int
) -> RunResult:
    """Without `client`, `server` and `warnings`, which are not known here."""
    return (
        about(settings)
        | _counts(settings, tally, throughput, duration, max_concurrent)
        | _latency_figures(settings, tally)
        | {
            "definitions": dict(DEFINITIONS),
            "timeline": tally.timeline(),
            "seconds": throughput.by_second(tally.tokens_per_piece),
            "ttft_buckets": _buckets(tally.distributions["ttft"]),
            "itl_buckets": _buckets(tally.distributions["itl"]),
            "tpot_buckets": _buckets(tally.distributions["tpot"]),
            "e2el_buckets": _buckets(tally.distributions["e2el"]),
        }
    )


def about(settings: RunSettings) -> RunResult:
    """The part of a result that is known before the load."""
    rate = settings.request_rate
    return {
        "date": datetime.now().astimezone().strftime("%Y%m%d-%H%M%S"),
        "backend": "openai-chat" if settings.endpoint == "chat" else "openai",
        "endpoint_type": settings.endpoint,
        "base_url": settings.base_url,
        "model_id": settings.model,
        "label": settings.label,
        "request_rate": "inf" if rate == float("inf") else rate,
        "burstiness": "inf" if settings.burstiness == float("inf") else settings.burstiness,
        "max_concurrency": settings.concurrency,
        "seed": settings.seed,
        "input_len": settings.input_len,
        "output_len": settings.output_len,
        "streamed": settings.is_streamed,
        **_ramp(settings),
        **settings.metadata,
    }


def _ramp(settings: RunSettings) -> RunResult:
    if settings.ramp is None:
        return {}
    return {
        "ramp_up_strategy": settings.ramp,
        "ramp_up_start_rps": settings.ramp_from,
        "ramp_up_end_rps": settings.ramp_to,
    }


def _counts(
    settings: RunSettings, tally: Tally, throughput: Throughput, duration: float, max_concurrent: int
) -> RunResult:
    def rate(count: float) -> float:
        return count / duration if duration > 0 else 0.0

    per_piece = tally.tokens_per_piece
    peak = throughput.peak(per_piece, duration)
    return {
        "num_prompts": tally.num_completed + tally.num_failed + tally.num_cancelled,
        "duration": duration,
        "completed": tally.num_completed,
        "failed": tally.num_failed,
        "cancelled": tally.num_cancelled,
        "failures": dict(tally.failures),
        "failure_messages": dict(tally.messages),
        "total_input_tokens": tally.prompt_tokens,
        "total_output_tokens": tally.output_tokens,
        "tokens_per_piece": per_piece,
        "request_throughput": rate(tally.num_completed),
        "request_goodput": rate(tally.num_good) if settings.goodput else None,
        "goodput_share": tally.num_good / max(tally.num_completed + tally.num_failed, 1) if settings.goodput else None,
        "goodput": dict(settings.goodput),
        "output_throughput": rate(tally.output_tokens),
        "total_token_throughput": rate(tally.prompt_tokens + tally.output_tokens),
        "steady_output_throughput": throughput.steady(per_piece),
        "peak_output_throughput": peak,
        "max_output_tokens_per_s": peak,
        "max_concurrent_requests": max_concurrent,
    }


def _latency_figures(settings: RunSettings, tally: Tally) -> RunResult:
    """None where a run has none of a kind: no stream, no second token."""
    figures: dict[str, float | None] = {}
    for name, distribution in tally.distributions.items():
        figures[f"mean_{name}_ms"] = distribution.mean
        figures[f"median_{name}_ms"] = distribution.percentile(50)
        figures[f"std_{name}_ms"] = distribution.std
        for percent in settings.percentiles:
            figures[f"p{percent:g}_{name}_ms"] = distribution.percentile(percent)
        figures[f"max_{name}_ms"] = distribution.max if distribution.count else None
    return {key: None if seconds is None else seconds * 1000 for key, seconds in figures.items()}


def _buckets(distribution: Distribution) -> Mapping[str, Any]:
    """A histogram whose edges, in ms, rise by the same factor."""
    low, high = distribution.percentile(0), distribution.max
    if not low:
        return {"edges": [], "counts": []}
    first, last = low * 0.99, max(high, low) * 1.01
    edges = [first * (last / first) ** (place / (NUM_EDGES - 1)) for place in range(NUM_EDGES)]
    return {"edges": [edge * 1000 for edge in edges], "counts": distribution.histogram(edges)}
