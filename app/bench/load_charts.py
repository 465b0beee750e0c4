"""How throughput and latencies go with the load: the charts over several loads of one command."""

from collections.abc import Iterator, Sequence
from typing import Any

from app.bench.chart import BLUE, GREEN, ORANGE, RED, Chart, Layout, Trace, axis, line, log_axis
from app.bench.quantities import E2EL, OUTPUT_RATE, STEADY_RATE, TPOT, TTFT, Latency, load_of, value_of
from app.bench.records import RunResult


def load_charts(results: Sequence[RunResult]) -> Iterator[Chart]:
    """None for a single load, which goes with nothing."""
    if len(results) < 2:
        return
    places, x_axis = _load_axis(results)
    yield Chart(
        "Throughput against load",
        "Where the curve goes flat, the server has no more to give.",
        [
            _curve(results, places, OUTPUT_RATE.key, "over the run", BLUE),
            _curve(results, places, STEADY_RATE.key, "in the steady window", GREEN, dash="dot"),
        ],
        {"xaxis": x_axis, "yaxis": axis("output tokens a second", rangemode="tozero")},
    )
    for latency in (TTFT, TPOT, E2EL):
        if any(value_of(result, latency.statistic("p50").key) is not None for result in results):
            yield _latency_chart(results, places, x_axis, latency)
    yield _exchange_chart(results)


def _load_axis(results: Sequence[RunResult]) -> tuple[Sequence[float | str | None], Layout]:
    """Where each load stands: by what was asked for, where that is a number and another for each; else by its words."""
    for key, title in (("request_rate", "requests a second, asked for"), ("max_concurrency", "requests at once")):
        values = [value_of(result, key) for result in results]
        if None not in values and len(set(values)) == len(values):
            return values, axis(title)
    return [load_of(result) for result in results], axis("load", type="category")


def _latency_chart(results: Sequence[RunResult], places: Sequence[Any], x_axis: Layout, latency: Latency) -> Chart:
    colours = {"p50": BLUE, "p90": ORANGE, "p99": RED}
    curves = [_curve(results, places, latency.statistic(name).key, name, colour) for name, colour in colours.items()]
    layout = {"xaxis": x_axis, "yaxis": axis("ms", rangemode="tozero")}
    return Chart(f"{latency.label} against load", "Half, nine in ten, and 99 of 100 took no longer.", curves, layout)


def _exchange_chart(results: Sequence[RunResult]) -> Chart:
    places = [value_of(result, OUTPUT_RATE.key) for result in results]
    return Chart(
        "Latency against throughput",
        "What each further token a second costs. Each point is a load.",
        [
            _curve(results, places, TTFT.statistic("p99").key, "TTFT p99", RED),
            _curve(results, places, TPOT.statistic("p99").key, "TPOT p99", BLUE),
        ],
        {"xaxis": axis("output tokens a second", rangemode="tozero"), "yaxis": log_axis("ms")},
    )


def _curve(
    results: Sequence[RunResult], places: Sequence[Any], key: str, name: str, colour: str, dash: str = "solid"
) -> Trace:
    values = [value_of(result, key) for result in results]
    loads = [load_of(result) for result in results]
    shown = {"mode": "lines+markers", "text": loads, "hovertemplate": "%{text}: %{y:,.4r}"}
    return line(name, places, values, colour, dash, **shown)
