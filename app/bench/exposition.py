"""What a server's /metrics means: one page in Prometheus' text format → levels and counts under one set of names.

The table of dialects says how each kind of server names them. Of a page only the lines that count are parsed: most of
its hundreds are histogram buckets, and the client has a load to time meanwhile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

Level = float | None


@dataclass(frozen=True, slots=True)
class Levels:
    """What a server said at one time; None: it does not tell. What is counted is counted from the server's start, and
    seconds are summed over requests."""

    t: float
    running: Level = None  # requests that it works on
    waiting: Level = None
    kv_used: Level = None  # blocks, or a share where a server tells no more
    kv_total: Level = None
    generated_total: Level = None  # tokens
    prompt_total: Level = None
    queue_s: Level = None
    prefill_s: Level = None
    decode_s: Level = None
    steps: Level = None
    preemptions: Level = None

    @property
    def kv_share(self) -> Level:
        return self.kv_used / self.kv_total if self.kv_used is not None and self.kv_total else None


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a kind of server names what `Levels` has. Two more fields are worked with: `ttft_s` is queue and prefill
    together, `kv_share` is of all blocks."""

    server: str
    prefix: str
    names: Mapping[str, str]  # field → series, without the prefix
    blocks_label: (
        tuple[()] | tuple[str, str]
    ) = ()  # a series without prefix, and its label that has the number of blocks

    def series(self, field: str) -> str:
        return self.prefix + self.names[field]


DIALECTS = (
    Dialect(
        "slotwise",
        "slotwise_",
        MappingProxyType(
            {
                "running": "requests_running",
                "waiting": "requests_waiting",
                "kv_used": "kv_blocks_used",
                "kv_total": "kv_blocks_total",
                "generated_total": "generation_tokens_total",
                "prompt_total": "prompt_tokens_total",
                "queue_s": "queue_seconds_sum",
                "ttft_s": "time_to_first_token_seconds_sum",
                "decode_s": "inter_token_latency_seconds_sum",
                "steps": "step_seconds_count",
                "preemptions": "preemptions_total",
            }
        ),
    ),
    Dialect(
        "vllm",
        "vllm:",
        MappingProxyType(
            {
                "running": "num_requests_running",
                "waiting": "num_requests_waiting",
                "kv_share": "kv_cache_usage_perc",
                "generated_total": "generation_tokens_total",
                "prompt_total": "prompt_tokens_total",
                "queue_s": "request_queue_time_seconds_sum",
                "prefill_s": "request_prefill_time_seconds_sum",
                "decode_s": "request_decode_time_seconds_sum",
                "steps": "iteration_tokens_total_count",
                "preemptions": "num_preemptions_total",
            }
        ),
        blocks_label=("cache_config_info", "num_gpu_blocks"),
    ),
    Dialect(
        "llama-server",
        "llamacpp:",
        MappingProxyType(
            {
                "running": "requests_processing",
                "waiting": "requests_deferred",
                "kv_share": "kv_cache_usage_ratio",
                "generated_total": "tokens_predicted_total",
                "prompt_total": "prompt_tokens_total",
                "prefill_s": "prompt_seconds_total",
                "decode_s": "tokens_predicted_seconds_total",
                "steps": "n_decode_total",
            }
        ),
    ),
)


def dialect_of(page: str) -> Dialect | None:
    """None where the page tells nothing of running requests under a name that is known."""
    return next((dialect for dialect in DIALECTS if _lines(page, [dialect.series("running")])), None)


def read_levels(page: str, dialect: Dialect, now: float) -> Levels:
    """Raises ValueError where a line is not as the format wants it."""
    samples = _samples(page, dialect)
    found = {field: _total(samples, dialect.series(field)) for field in dialect.names}
    ttft, share = found.pop("ttft_s", None), found.pop("kv_share", None)
    if ttft is not None and found["queue_s"] is not None:
        found["prefill_s"] = ttft - found["queue_s"]
    if share is not None:
        engines = sum(sample.name == dialect.series("kv_share") for sample in samples)
        blocks = _blocks(samples, dialect) or 1.0
        found |= {"kv_total": blocks, "kv_used": share / engines * blocks}
    return Levels(t=now, **found)


def _samples(page: str, dialect: Dialect) -> Sequence[Sample]:
    lines = _lines(page, [dialect.prefix + name for name in (*dialect.names.values(), *dialect.blocks_label[:1])])
    return [sample for family in text_string_to_metric_families("\n".join(lines)) for sample in family.samples]


def _lines(page: str, series: Sequence[str]) -> Sequence[str]:
    starts = tuple(name + after for name in series for after in ("{", " "))
    return [line for line in page.splitlines() if line.startswith(starts)]


def _total(samples: Sequence[Sample], series: str) -> Level:
    """Over all engines and models of a server."""
    values = [sample.value for sample in samples if sample.name == series]
    return sum(values) if values else None


def _blocks(samples: Sequence[Sample], dialect: Dialect) -> float:
    """0 where the server does not tell; vLLM writes "None" until it knows."""
    if not dialect.blocks_label:
        return 0.0
    name, label = dialect.blocks_label
    told = [sample.labels.get(label, "") for sample in samples if sample.name == dialect.prefix + name]
    return sum(float(blocks) for blocks in told if blocks.isdigit())
