"""What the figures of a load are called, in which unit, and which way is better: one table for everything that shows,
compares or asserts them. It reads results; it computes none.
"""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.bench.records import Failure, RunResult


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number of a result."""

    key: str  # where a RunResult has it; a dot leads into a part of the result
    label: str
    unit: str  # "" for a count
    is_better_high: bool | None  # None: neither is better


@dataclass(frozen=True, slots=True)
class Latency:
    """A time of which a result has several statistics, in milliseconds."""

    name: str
    label: str
    short: str

    def statistic(self, statistic: str) -> Quantity:
        return Quantity(f"{statistic}_{self.name}_ms", f"{self.short} {statistic}", "ms", is_better_high=False)


TTFT = Latency("ttft", "Time to first token", "TTFT")
TPOT = Latency("tpot", "Time per output token", "TPOT")
ITL = Latency("itl", "Inter-token latency", "ITL")
E2EL = Latency("e2el", "End-to-end latency", "E2EL")
LATENCIES = (TTFT, TPOT, ITL, E2EL)

OUTPUT_RATE = Quantity("output_throughput", "Output throughput", "tok/s", is_better_high=True)
STEADY_RATE = Quantity("steady_output_throughput", "Output throughput, steady", "tok/s", is_better_high=True)
REQUEST_RATE = Quantity("request_throughput", "Request throughput", "req/s", is_better_high=True)
GOODPUT = Quantity("request_goodput", "Goodput", "req/s", is_better_high=True)
RATES = (
    REQUEST_RATE,
    GOODPUT,
    OUTPUT_RATE,
    STEADY_RATE,
    Quantity("peak_output_throughput", "Output throughput, peak", "tok/s", is_better_high=True),
    Quantity("total_token_throughput", "Throughput with prompts", "tok/s", is_better_high=True),
)
COUNTS = (
    Quantity("completed", "Requests completed", "", is_better_high=None),
    Quantity("failed", "Requests failed", "", is_better_high=False),
    Quantity("cancelled", "Requests cancelled", "", is_better_high=None),
    Quantity("total_input_tokens", "Prompt tokens", "", is_better_high=None),
    Quantity("total_output_tokens", "Output tokens", "", is_better_high=None),
    Quantity("duration", "Duration", "s", is_better_high=None),
)
INSIDE = (
    Quantity("client.cpu_share", "Client's share of a core", "share", is_better_high=False),
    Quantity("client.loop_lag_p99_ms", "Client's event loop late", "ms", is_better_high=False),
    Quantity("client.late_sends_p99_ms", "Requests sent late", "ms", is_better_high=False),
    Quantity("server.batch_avg", "Batch, average", "", is_better_high=None),
    Quantity("server.queue_max", "Queue, longest", "", is_better_high=False),
    Quantity("server.kv_max", "KV use, highest", "share", is_better_high=None),
    Quantity("server.tokens_per_step", "Tokens a step", "", is_better_high=None),
    Quantity("server.preemptions", "Preemptions", "", is_better_high=False),
    Quantity("server.queue_s", "Server's queueing", "s", is_better_high=False),
    Quantity("server.prefill_s", "Server's prefill", "s", is_better_high=None),
    Quantity("server.decode_s", "Server's decode", "s", is_better_high=None),
)

NOTHING = "–"
STATISTIC = re.compile(r"(mean|median|std|max|p\d{1,2}(?:\.\d+)?|p100)_(ttft|tpot|itl|e2el)(?:_ms)?")


class UnknownQuantity(ValueError):
    """No result has a figure of this name."""


def quantity_of(name: str) -> Quantity:
    """By the key, without `_ms` if one likes: p99_ttft, output_throughput, failures.timeout, client.cpu_share."""
    if found := STATISTIC.fullmatch(name):
        statistic = f"p{float(found[1][1:]):g}" if found[1].startswith("p") else found[1]  # as a result spells it
        return next(latency for latency in LATENCIES if latency.name == found[2]).statistic(statistic)
    known = {quantity.key: quantity for quantity in (*RATES, *COUNTS, *INSIDE, *_failures())}
    if name in known:
        return known[name]
    words = [*known, *(f"{statistic}_{latency.name}" for statistic in ("mean", "p50", "p99") for latency in LATENCIES)]
    near = difflib.get_close_matches(name, words, n=1)
    raise UnknownQuantity(f"there is no figure called {name!r}" + (f"; is it {near[0]!r}?" if near else ""))


def _failures() -> list[Quantity]:
    return [
        Quantity(f"failures.{kind.value}".replace(" ", "_"), f"Failed: {kind.value}", "", is_better_high=False)
        for kind in Failure
    ]


def value_of(result: RunResult, key: str) -> float | None:
    """None where the result does not have it, or has no number there. A kind of failure that is not named: 0."""
    part, _, name = key.rpartition(".")
    where: Any = result.get(part) if part else result
    if part == "failures" and isinstance(where, Mapping):
        name = name.replace("_", " ")
        where = {name: 0} | dict(where)
    value = where.get(name) if isinstance(where, Mapping) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if value is not None and is_number else None


def statistics_of(result: RunResult) -> list[str]:
    """Those that a result has of its latencies: mean, median where there is no p50, percentiles, max, in that order."""
    found = {match[1] for key in result if (match := STATISTIC.fullmatch(key))}
    percentiles = sorted((name for name in found if name.startswith("p")), key=lambda name: float(name[1:]))
    middle = "median" if "p50" not in found else "p50"
    wanted = ("mean", middle, *(name for name in percentiles if name != middle), "max")
    return [name for name in wanted if name in found]


def rate_of(result: RunResult) -> float | None:
    """Requests a second that were asked for; None where as many were sent as the server took."""
    return value_of(result, "request_rate")  # `vllm bench serve` writes "inf" for none


def load_of(result: RunResult) -> str:
    """The load in a few words: `16 at once`, `8 req/s`."""
    rate, concurrency = rate_of(result), value_of(result, "max_concurrency")
    start, end = value_of(result, "ramp_up_start_rps"), value_of(result, "ramp_up_end_rps")
    asked = f"{rate:g} req/s" if rate is not None else None
    if start is not None and end is not None:
        asked = f"{start:g} to {end:g} req/s"
    at_once = f"{concurrency:.0f} at once" if concurrency is not None else None
    return ", ".join(part for part in (asked, at_once) if part) or "all at once"


def in_words(value: float | None, unit: str = "") -> str:
    """Three or four digits that count, thousands parted; a dash where there is no value."""
    if value is None:
        return NOTHING
    if unit == "share":
        return f"{value:.1%}".replace("%", " %")
    digits = 0 if abs(value) >= 1000 or value == int(value) else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}" + (f" {unit}" if unit else "")
