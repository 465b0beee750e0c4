"""The requests as bars: each stage where it was, as far as client and server can tell stages apart."""

import pytest

from app.bench.timeline import MAX_ROWS, Span, spans_of, timeline_chart
from tests.bench.hand_written import load, request

graph_objects = pytest.importorskip("plotly.graph_objects", reason="plotly is an extra")


@pytest.mark.parametrize(
    ("entry", "spans"),
    [
        (
            request(1, scheduled=0.5),
            [
                Span("held by the client", 0.5, 1.0),
                Span("queued and prefill", 1.0, 1.1),
                Span("decode", 1.1, 3.0),
            ],
        ),
        (
            request(1, queue_s=0.04),
            [
                Span("held by the client", 1.0, 1.0),
                Span("queued", 1.0, 1.04),
                Span("prefill", 1.04, 1.1),
                Span("decode", 1.1, 3.0),
            ],
        ),
        (request(1, first=None), [Span("held by the client", 1.0, 1.0), Span("answered", 1.0, 3.0)]),
        (request(1, failure="timeout"), [Span("held by the client", 1.0, 1.0), Span("failed", 1.0, 3.0)]),
    ],
    ids=["of a client", "of a server that tells", "not streamed", "failed"],
)
def test_the_stages_of_a_request(entry, spans):
    assert list(spans_of(entry)) == spans


def test_a_server_that_claims_a_longer_queue_than_there_was_is_cut_short():
    queued, prefill = list(spans_of(request(1, queue_s=9.0)))[1:3]

    assert (queued.end, prefill.begin, prefill.end) == (1.1, 1.1, 1.1)


def test_each_request_is_a_row_and_each_stage_a_colour():
    (chart,) = timeline_chart(load())
    bars = {trace["name"]: trace for trace in chart.traces}

    assert bars.keys() == {"queued and prefill", "decode"}
    assert (bars["decode"]["y"], bars["decode"]["base"], bars["decode"]["x"]) == ([0, 1], [0.1, 1.1], [1.9, 1.9])
    assert len({trace["marker"]["color"] for trace in chart.traces}) == len(chart.traces)


def test_a_bar_tells_what_became_of_its_request():
    entries = [request(0), request(1, cancelled=True), request(2, failure="no usage")]
    (chart,) = timeline_chart(load(timeline=entries))

    told = {text for trace in chart.traces for text in trace["text"]}
    assert told == {"request 0: 32 + 96 tokens", "request 1: cancelled", "request 2: no usage"}


def test_of_very_many_requests_some_are_shown_from_first_to_last():
    (chart,) = timeline_chart(load(timeline=[request(number) for number in range(1000)], num_prompts=5000))
    decode = next(trace for trace in chart.traces if trace["name"] == "decode")

    assert len(decode["y"]) == MAX_ROWS
    assert (decode["base"][0], decode["base"][-1] > 990) == (0.1, True)
    assert "400 of 5,000 are shown" in chart.note


def test_a_result_without_requests_has_no_chart():
    assert list(timeline_chart(load(timeline=[]))) == []
    assert list(timeline_chart({"request_throughput": 1.0})) == []


def test_plotly_takes_the_chart():
    (chart,) = timeline_chart(load())

    assert len(graph_objects.Figure(chart.figure).data) == len(chart.traces)
