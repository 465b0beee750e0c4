"""Assertions on a load: what they say, when they hold, and that a slip of the pen is found before anything is run."""

import pytest

from app.bench.assertions import BadAssertion, check, check_all, parse_assertion, ratio
from tests.bench.hand_written import load


def holds(text, result=None, baseline=None):
    return check(parse_assertion(text, has_baseline=baseline is not None), result or load(), baseline).holds


@pytest.mark.parametrize(
    "text",
    [
        "p99_ttft<301ms",
        "p99_ttft<=300ms",
        "p99_ttft_ms < 0.301s",
        "p50_tpot<20001us",
        "p50_tpot == 20",
        "p50_tpot!=21",
        "output_throughput>=1536",
        "output_throughput > 1.5e3 tok/s",
        "failed<=3",
        "failed<=1.5%",
        "completed>=98%",
        "client.cpu_share<10%",
        "client.cpu_share<0.1",
        "failures.refused==0",
        "duration<1min",
    ],
)
def test_what_is_so_holds(text):
    assert holds(text)


@pytest.mark.parametrize(
    "text",
    [
        "p99_ttft<300ms",
        "p99_ttft<0.3s",
        "p50_tpot>20000us",
        "output_throughput>1536",
        "failed<3",
        "failed<1.5%",
        "completed>98%",
        "client.cpu_share<8%",
        "failures.timeout<2",
        "duration>12.5s",
    ],
)
def test_what_is_not_so_does_not_hold(text):
    assert not holds(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("p99_ttft", "is not like"),
        ("p99_ttft<", "is not like"),
        ("p99_ttft<fast", "is not like"),
        ("<800ms", "is not like"),
        ("p99_tftt<800ms", "is it 'p99_ttft'"),
        ("p99_ttft<800tok/s", "not measured in 'tok/s' but in us, µs, ms, s"),
        ("output_throughput>5ms", "not measured in 'ms' but in tok/s"),
        ("server.queue_max<5ms", "a plain number"),
        ("p99_ttft<80%", "not measured in '%'"),
        ("p99_ttft<1.1x", "needs a baseline"),
    ],
)
def test_what_cannot_be_decided_is_refused_at_once(text, why):
    with pytest.raises(BadAssertion, match=why):
        parse_assertion(text)


def test_a_figure_that_the_result_lacks_is_a_failure_and_says_so():
    outcome = check(parse_assertion("p99_ttft<800ms"), load(p99_ttft_ms=None))

    assert not outcome.holds
    assert "there is no such figure" in str(outcome)


def test_an_outcome_names_the_load_and_what_was_measured():
    assert str(check(parse_assertion("p99_ttft<0.2s"), load())) == "FAILS: p99_ttft<0.2s (16 at once: it is 300 ms)"
    assert str(check(parse_assertion("failed<2%"), load())) == "holds: failed<2% (16 at once: it is 1.5 %)"


def test_each_load_must_hold_to_each_assertion():
    asserted = [parse_assertion("p99_ttft<800ms"), parse_assertion("failed==0")]
    outcomes = check_all(asserted, [load(), load(p99_ttft_ms=900.0, failed=0)])

    assert [outcome.holds for outcome in outcomes] == [True, False, False, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("output_throughput>=0.95x", True), ("output_throughput>=1x", False), ("p99_ttft<1.2x", True)],
)
def test_a_ratio_is_that_to_the_baseline(text, expected):
    after = load(output_throughput=0.96 * 1536, p99_ttft_ms=330.0)

    assert holds(text, after, baseline=load()) is expected


def test_a_ratio_to_a_baseline_without_the_figure_fails():
    assert not holds("p99_ttft<2x", load(), baseline=load(p99_ttft_ms=None))


def test_percentiles_that_a_load_must_report_are_told():
    wanted = [parse_assertion(text).percentile for text in ("p99.9_ttft<1s", "p50_itl<9", "mean_itl<9", "failed<1")]

    assert wanted == [99.9, 50.0, None, None]


def test_nothing_to_nothing_is_no_change_and_something_to_nothing_is_no_ratio():
    assert ratio(0.0, 0.0) == 1.0
    assert ratio(1.0, 0.0) is None
    assert ratio(None, 1.0) is None
    assert ratio(3.0, 2.0) == 1.5
