"""Charts of one load: tokens over time with KV use, the server's requests, and how latencies are spread."""

import pytest

from app.bench.run_charts import server_chart, spread_charts, tokens_chart
from tests.bench.hand_written import load

graph_objects = pytest.importorskip("plotly.graph_objects", reason="plotly is an extra")


def test_tokens_a_second_and_kv_use_share_the_time_axis():
    (chart,) = tokens_chart(load())
    tokens, kv = chart.traces

    assert (tokens["x"], tokens["y"]) == ([0.0, 1.0, 2.0], [1500.0, 1700.0, 1700.0])
    assert (kv["x"], kv["y"]) == ([0.0, 1.0], [0.0, 0.25])
    assert kv["yaxis"] == "y2"
    assert chart.layout["yaxis2"]["overlaying"] == "y"


def test_entries_longer_than_a_second_are_still_tokens_a_second():
    (chart,) = tokens_chart(load(seconds=[{"t": 0.0, "output_tokens": 400.0}, {"t": 4.0, "output_tokens": 800.0}]))

    assert (chart.traces[0]["x"], chart.traces[0]["y"]) == ([0.0, 4.0, 8.0], [100.0, 200.0, 200.0])


@pytest.mark.parametrize("server", [None, {}, {"samples": [{"t": 0.0, "kv_used": None, "kv_total": None}]}])
def test_a_server_that_tells_no_kv_use_has_no_second_axis(server):
    (chart,) = tokens_chart(load(server=server))

    assert len(chart.traces) == 1
    assert "yaxis2" not in chart.layout


def test_a_run_without_seconds_has_no_chart_of_them():
    assert list(tokens_chart(load(seconds=[]))) == []
    assert list(tokens_chart({"request_throughput": 1.0})) == []


def test_what_ran_and_what_waited_in_the_server():
    (chart,) = server_chart(load())

    assert {trace["name"]: trace["y"] for trace in chart.traces} == {"running": [0, 16], "waiting": [0, 2]}


@pytest.mark.parametrize("server", [None, {}, {"samples": [{"t": 0.0, "running": None}]}])
def test_a_server_that_tells_nothing_has_no_chart(server):
    assert list(server_chart(load(server=server))) == []


def test_a_latency_is_spread_over_its_buckets_as_shares():
    first_token, between = spread_charts(load())
    steps, *marks = first_token.traces

    assert first_token.title == "Time to first token"
    assert (steps["x"], steps["y"]) == ([50.0, 100.0, 200.0, 400.0], [0.1, 0.6, 0.3, 0.0])
    assert [(mark["name"], mark["x"]) for mark in marks] == [
        ("p50: 100 ms", [100.0, 100.0]),
        ("p90: 200 ms", [200.0, 200.0]),
        ("p99: 300 ms", [300.0, 300.0]),
    ]
    assert (between.title, between.traces[0]["y"]) == ("Inter-token latency", [0.75, 0.25, 0.0])


def test_empty_buckets_are_no_chart():
    none = {"edges": [], "counts": []}

    assert list(spread_charts(load(ttft_buckets=none, itl_buckets=None))) == []


def test_plotly_takes_every_chart():
    for chart in [*tokens_chart(load()), *server_chart(load()), *spread_charts(load())]:
        assert len(graph_objects.Figure(chart.figure).data) == len(chart.traces)
