"""The result that tests are written with is one that a load has: what shows results reads no key that none has."""

from app.bench.facts import facts_of, failures_of
from app.bench.metrics import result
from app.bench.page import page
from app.bench.quantities import COUNTS, GOODPUT, LATENCIES, RATES, statistics_of, value_of
from app.bench.records import Failure, Record, RunSettings
from app.bench.run_charts import spread_charts, tokens_chart
from app.bench.tally import Tally
from app.bench.throughput import Throughput
from app.bench.timeline import timeline_chart
from tests.bench.hand_written import load

SETTINGS = RunSettings(base_url="http://127.0.0.1:8000", model="minimind", concurrency=2, goodput={"ttft": 150.0})


def measured(settings=SETTINGS):
    """Four requests of three tokens; the fourth failed, and the third was too slow for the limit."""
    tally, throughput = Tally(settings), Throughput()
    for number, wait in enumerate((0.1, 0.1, 0.2, 0.1)):
        failure = Failure.TIMEOUT if number == 3 else None
        throughput.sent(float(number))
        for piece in range(3):
            throughput.piece(number + wait + piece * 0.2)
        tally.add(
            Record(
                number,
                scheduled=number,
                sent=number,
                first=number + wait,
                ended=number + wait + 0.4,
                prompt_tokens=5,
                output_tokens=3,
                gaps=(0.2, 0.2),
                failure=failure,
                message="no end" if failure else "",
            )
        )
        throughput.answered(number + wait + 0.4)
    return result(settings, tally, throughput, 4.0, 2)


def test_what_is_written_by_hand_has_no_key_that_a_load_has_not():
    beside = {"client", "server", "warnings"}  # which app/bench/run.py adds

    assert load().keys() - measured().keys() == beside
    assert load()["timeline"][0].keys() == measured()["timeline"][0].keys()
    assert load()["seconds"][0].keys() == measured()["seconds"][0].keys()
    assert load()["ttft_buckets"].keys() == measured()["ttft_buckets"].keys()


def test_every_figure_of_a_load_is_found():
    found = measured()

    assert [quantity.key for quantity in (*RATES, *COUNTS) if value_of(found, quantity.key) is None] == []
    assert statistics_of(found) == ["mean", "p50", "p90", "p95", "p99", "max"]
    for latency in LATENCIES:
        assert value_of(found, latency.statistic("p99").key) is not None, latency
    assert value_of(found, GOODPUT.key) == 0.5


def test_a_measured_load_is_told_in_words():
    facts = dict(facts_of(measured()))

    assert facts["requests"] == "3 completed, 1 failed, 4 s long"
    assert facts["goodput"] == "0.500 req/s (50.0 %) within ttft 150 ms"
    assert list(failures_of(measured())) == [("1 timeout", "no end")]


def test_a_measured_load_is_drawn():
    charts = [*tokens_chart(measured()), *timeline_chart(measured()), *spread_charts(measured())]

    assert [chart.title for chart in charts] == [
        "Tokens over time",
        "Requests",
        "Time to first token",
        "Time per output token",
        "Inter-token latency",
        "End-to-end latency",
    ]
    assert all(sum(chart.traces[0]["y"]) > 0 for chart in charts)
    assert "</html>" in list(page([measured(), measured()], ""))[-1]


def test_a_load_that_completed_nothing_is_told_and_drawn_all_the_same():
    nothing = result(SETTINGS, Tally(SETTINGS), Throughput(), 0.0, 0)

    assert dict(facts_of(nothing))["requests"] == "0 completed, 0 s long"
    assert "</html>" in list(page([nothing, nothing], ""))[-1]
