"""What a sweep's loads say together, from figures written by hand."""

import pytest

from app.bench.assertions import parse_assertion
from app.bench.records import RunResult
from app.bench.steps import Step, SweepResult, next_load

LIMIT = parse_assertion("p99_ttft<500ms")


def result(concurrency: float, throughput: float, e2el: float = 100.0) -> RunResult:
    return {
        "max_concurrency": concurrency,
        "request_rate": "inf",
        "output_throughput": throughput,
        "mean_e2el_ms": e2el,
        "p99_ttft_ms": e2el / 2,
    }


def step(
    load: float, throughput: float = 1.0, e2el: float = 100.0, *, misses: tuple[str, ...] = (), full=False
) -> Step:
    return Step(load, result(load, throughput, e2el), misses, full)


def swept(*steps: Step, limits=(), is_search=False) -> SweepResult:
    return SweepResult(steps, tuple(limits), is_search)


CURVE = (  # throughput and latency of a server with about eight slots
    step(1, 10, 100),
    step(4, 36, 110),
    step(8, 64, 125),
    step(16, 70, 230),
    step(32, 71, 450, misses=("p99_ttft<500ms is missed",)),
)


def test_the_knee_is_where_the_curve_of_throughput_over_latency_bends():
    found = swept(*CURVE)

    assert found.knee is CURVE[2]
    assert list(found.lines()) == [
        "the knee is at 8 at once (64 tok/s, 62.50 ms p99 TTFT, 125 ms a request):"
        " beyond it, latency grows more than throughput",
        "32 at once has 7.1 times the throughput of 1 at once",
    ]


def test_a_server_that_gains_less_and_less_has_its_knee_where_it_bends():
    """As on few cores, where each step of a larger batch costs more."""
    assert swept(step(1, 215, 510), step(4, 464, 1100), step(16, 563, 3600)).knee == step(4, 464, 1100)


def test_a_server_with_more_to_give_has_no_knee_yet():
    found = swept(*CURVE[:3])

    assert found.knee is None
    assert list(found.lines())[0] == "no knee up to 8 at once (64 tok/s, 62.50 ms p99 TTFT, 125 ms a request)"
    assert swept(step(1, 10, 100.2), step(2, 20, 100.0), step(4, 40, 100.1)).knee is None  # no latency gained: noise


def test_two_loads_have_no_bend():
    assert list(swept(CURVE[0], CURVE[4]).lines()) == ["32 at once has 7.1 times the throughput of 1 at once"]


def test_a_sweep_without_answers_has_no_knee():
    nothing = Step(1, result(1, 0.0) | {"mean_e2el_ms": None}, ("3 requests failed",), False)

    assert swept().knee is None
    assert list(swept().lines()) == []
    assert swept(nothing, nothing).knee is None
    assert list(swept(nothing, nothing).lines()) == []
    assert swept(CURVE[0], CURVE[2], CURVE[4], nothing).knee is CURVE[2]


def test_the_highest_load_within_limits_has_none_below_it_that_misses_them():
    bad = step(2, misses=("missed",))

    assert swept(*CURVE).highest is CURVE[3]
    assert swept(CURVE[0], bad, CURVE[2]).highest is CURVE[0]
    assert swept(bad).highest is None
    assert swept(CURVE[0], step(4, full=True)).highest is CURVE[0]


def test_limits_are_told_with_what_missed_them():
    lines = list(swept(*CURVE, limits=[LIMIT]).lines())

    assert lines[0].startswith("the highest load with p99_ttft<500ms is 16 at once (70 tok/s")
    assert lines[1] == "32 at once: p99_ttft<500ms is missed"


def test_no_load_within_the_limits_is_said():
    lines = list(swept(step(1, misses=("missed",)), limits=[LIMIT], is_search=True).lines())

    assert lines == ["no load of these keeps to p99_ttft<500ms", "1 at once: missed"]


def test_overload_is_said():
    lines = list(swept(step(1), step(2, full=True)).lines())

    assert lines[0] == "2 at once is more than the server can do: waits grow, throughput does not"


def test_each_run_says_what_it_was_found_to_be():
    runs = swept(*CURVE, limits=[LIMIT]).runs()

    assert [run["max_concurrency"] for run in runs] == [1, 4, 8, 16, 32]
    assert [run["sweep"]["is_knee"] for run in runs] == [False, False, True, False, False]
    assert [run["sweep"]["is_highest"] for run in runs] == [False, False, False, True, False]
    assert runs[4]["sweep"]["missed_limits"] == ["p99_ttft<500ms is missed"]
    assert runs[0]["sweep"]["limits"] == ["p99_ttft<500ms"]


def test_without_limits_no_load_is_the_highest():
    assert {run["sweep"]["is_highest"] for run in swept(*CURVE).runs()} == {None}


# ── which load is next ──


def good(load: float) -> Step:
    return step(load)


def bad(load: float) -> Step:
    return step(load, misses=("missed",))


@pytest.mark.parametrize(
    ("steps", "following"),
    [
        ([good(1)], 2),
        ([good(1), good(2)], 4),
        ([bad(8)], 4),
        ([bad(4), bad(8)], 2),
        ([good(4), bad(8)], 6),  # √32, rounded
        ([good(5), bad(6)], None),
        ([good(20), bad(22)], None),
        ([good(2), bad(4)], 3),
        ([bad(1)], None),
        ([good(1), bad(2), good(4)], None),  # what lies above a bad one does not count
    ],
)
def test_concurrencies_are_whole(steps, following):
    assert next_load(steps, is_whole=True) == following


@pytest.mark.parametrize(
    ("steps", "following"),
    [
        ([good(1)], 2),
        ([bad(1)], 0.5),
        ([good(2), bad(8)], 4),
        ([good(1), bad(1.2)], pytest.approx(1.2**0.5)),
        ([good(1), bad(1.1)], None),
    ],
)
def test_rates_are_any(steps, following):
    assert next_load(steps, is_whole=False) == following
