"""What went on during one load, and how its latencies are spread. What a result has no figures for is not drawn."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.bench.chart import BLUE, GREEN, ORANGE, RED, Chart, Trace, axis, line, log_axis
from app.bench.quantities import LATENCIES, Latency, value_of
from app.bench.records import RunResult

ABOVE = 1.05  # how far a percentile's line goes beyond the highest step


def tokens_chart(result: RunResult) -> Iterator[Chart]:
    """Tokens a second with KV use on one time axis."""
    seconds = result.get("seconds") or ()
    if not seconds:
        return
    width = seconds[1]["t"] - seconds[0]["t"] if len(seconds) > 1 else 1.0
    rates = [entry["output_tokens"] / width for entry in seconds]
    edges = [*(entry["t"] for entry in seconds), seconds[-1]["t"] + width]
    traces = [line("output tokens a second", edges, [*rates, rates[-1]], BLUE, shape="hv"), *_kv_lines(result)]
    share = {"overlaying": "y", "side": "right", "tickformat": ".0%", "dtick": 0.25, "range": [0, 1], "showgrid": False}
    layout = {"xaxis": axis("seconds"), "yaxis": axis("tokens a second", rangemode="tozero")}
    if len(traces) > 1:
        layout["yaxis2"] = axis("KV cache in use", **share)
    yield Chart(
        "Tokens over time", "What came in each second, and how full the KV cache was.", traces, layout, is_wide=True
    )


def _kv_lines(result: RunResult) -> Iterator[Trace]:
    told = [sample for sample in _samples(result) if sample.get("kv_total") and sample.get("kv_used") is not None]
    shares = [sample["kv_used"] / sample["kv_total"] for sample in told]
    if told:
        yield line("KV cache in use", [sample["t"] for sample in told], shares, ORANGE, yaxis="y2")


def server_chart(result: RunResult) -> Iterator[Chart]:
    """How many requests the server worked on, and how many waited, by its own account."""
    samples = _samples(result)
    times = [sample["t"] for sample in samples]
    traces = [
        line(name, times, [sample.get(name) for sample in samples], colour, shape="hv")
        for name, colour in (("running", BLUE), ("waiting", RED))
        if any(sample.get(name) is not None for sample in samples)
    ]
    layout = {"xaxis": axis("seconds"), "yaxis": axis("requests", rangemode="tozero")}
    if traces:
        yield Chart("Requests in the server", "As its own metrics have them.", traces, layout, is_wide=True)


def _samples(result: RunResult) -> Sequence[Mapping[str, Any]]:
    server = result.get("server") or {}
    samples: Sequence[Mapping[str, Any]] = server.get("samples") or ()
    return samples


def spread_charts(result: RunResult) -> Iterator[Chart]:
    """A histogram of each latency, whose edges rise by the same factor, with percentiles as upright lines."""
    for latency in LATENCIES:
        buckets = result.get(f"{latency.name}_buckets") or {}
        edges, counts = buckets.get("edges") or (), buckets.get("counts") or ()
        if sum(counts):
            yield _spread_chart(result, latency, edges, [count / sum(counts) for count in counts])


def _spread_chart(result: RunResult, latency: Latency, edges: Sequence[float], shares: Sequence[float]) -> Chart:
    look: dict[str, Any] = {
        "fill": "tozeroy",
        "hovertemplate": "%{x:,.4r} ms: %{y:.1%}<extra></extra>",
        "showlegend": False,
    }
    marks = [
        line(f"{name}: {value:,.4g} ms", [value, value], [0.0, max(shares) * ABOVE], colour, "dash", hoverinfo="name")
        for name, colour in (("p50", GREEN), ("p90", ORANGE), ("p99", RED))
        if (value := value_of(result, latency.statistic(name).key)) is not None
    ]
    layout = {"xaxis": log_axis("ms"), "yaxis": axis("share", tickformat=".0%", rangemode="tozero")}
    steps = line("share", edges, [*shares, 0.0], BLUE, shape="hv", **look)
    return Chart(latency.label, "How many took how long.", [steps, *marks], layout)
