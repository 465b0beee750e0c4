"""Charts over several loads: which numbers stand where, and that plotly takes them."""

import pytest

from app.bench.load_charts import load_charts
from tests.bench.hand_written import latencies, load

graph_objects = pytest.importorskip("plotly.graph_objects", reason="plotly is an extra")


def charts(*results):
    return {chart.title: chart for chart in load_charts(results)}


def by_name(chart):
    return {trace["name"]: trace for trace in chart.traces}


TWO = (
    load(max_concurrency=1, output_throughput=100.0, steady_output_throughput=None),
    load(max_concurrency=8, output_throughput=700.0, steady_output_throughput=800.0, **latencies(2.0)),
)


def test_a_single_load_goes_with_nothing():
    assert charts(load()) == {}


def test_throughput_and_each_latency_stand_against_load():
    found = charts(*TWO)

    assert list(found) == [
        "Throughput against load",
        "Time to first token against load",
        "Time per output token against load",
        "End-to-end latency against load",
        "Latency against throughput",
    ]
    throughput = by_name(found["Throughput against load"])
    assert (throughput["over the run"]["x"], throughput["over the run"]["y"]) == ([1.0, 8.0], [100.0, 700.0])
    assert throughput["in the steady window"]["y"] == [None, 800.0]
    first_token = by_name(found["Time to first token against load"])
    assert {name: trace["y"] for name, trace in first_token.items()} == {
        "p50": [100.0, 200.0],
        "p90": [200.0, 400.0],
        "p99": [300.0, 600.0],
    }


def test_latency_stands_against_throughput():
    curve = by_name(charts(*TWO)["Latency against throughput"])["TTFT p99"]

    assert (curve["x"], curve["y"]) == ([100.0, 700.0], [300.0, 600.0])
    assert curve["text"] == ["1 at once", "8 at once"]


@pytest.mark.parametrize(
    ("asked", "places", "axis"),
    [
        ([{"request_rate": 2.0}, {"request_rate": 4.0}], [2.0, 4.0], "requests a second, asked for"),
        ([{"max_concurrency": 4}, {"max_concurrency": 8}], [4.0, 8.0], "requests at once"),
        ([{"max_concurrency": 4}, {"max_concurrency": 4}], ["4 at once", "4 at once"], "load"),
        ([{"max_concurrency": None}, {"request_rate": 4.0}], ["all at once", "4 req/s, 16 at once"], "load"),
    ],
)
def test_a_load_stands_at_what_was_asked_for(asked, places, axis):
    chart = charts(*(load(**changes) for changes in asked))["Throughput against load"]

    assert chart.traces[0]["x"] == places
    assert chart.layout["xaxis"]["title"]["text"] == axis


def test_loads_without_streams_have_no_chart_of_the_first_token():
    unstreamed = {key: None for key in load() if key.endswith(("_ttft_ms", "_tpot_ms"))}

    assert "Time to first token against load" not in charts(load(**unstreamed), load(**unstreamed))


def test_plotly_takes_every_chart():
    for chart in load_charts(TWO):
        assert len(graph_objects.Figure(chart.figure).data) == len(chart.traces)
