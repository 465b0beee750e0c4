"""That each command's verdict can fail: samples made up to hold, and one of each bound that does not."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.reliability import event_loop, kill, overload, side_channel, soak
from tests.reliability.figures import Figure, Separation, percentile, slope, verdict
from tests.reliability.server_process import MB, Usage
from tests.reliability.wire import Answer

FLAT = Usage(anonymous=100 * MB, swapped=0, descriptors=20, threads=10)


def missed(figures: Sequence[Figure]) -> set[str]:
    return {figure.name.removeprefix("… ") for figure in figures if not figure.is_met}


def growing(mb: float) -> Usage:
    return replace(FLAT, swapped=int(mb * MB))


def test_the_status_tells_whether_every_figure_holds(capsys):
    held, failed = Figure("a", 1, "s", "≤", 1), Figure("b", 1, "s", "<", 1)

    assert verdict("x", [held, Figure("c", 7)]) == 0
    assert verdict("x", [held, failed]) == 1
    assert verdict("x", [Figure("nothing was measured", math.nan, "", "≤", 1)]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_percentiles_and_slopes():
    assert [percentile([3, 1, 2, 4], percent) for percent in (0, 50, 75, 99.9)] == [1, 2, 3, 4]
    assert slope([0, 1, 2], [5, 7, 9]) == 2
    assert math.isnan(percentile([], 50))
    assert math.isnan(slope([1, 1], [0, 1]))


def test_separation_counts_pairs_and_halves_ties():
    assert Separation.of([1, 2], [2, 3]).auc == (1 + 1 + 0.5 + 1) / 4
    assert Separation.of([1, 2], [3, 4]) == Separation(1.0, 0.0)


def test_the_interval_of_samples_alike_is_the_textbook_s():
    rng = random.Random(1)
    first, second = ([rng.random() for _ in range(300)] for _ in range(2))

    separation = Separation.of(first, second)

    assert abs(separation.auc - 0.5) < separation.margin
    assert separation.margin == pytest.approx(1.96 * math.sqrt(601 / (12 * 300 * 300)), rel=0.05)


# ── overload ──


def load_of(completed: int, seconds: float = 10, **changes: object) -> overload.Load:
    usages = [(float(minute), FLAT) for minute in range(10)]
    fields = {"statuses": Counter({200: completed, 429: 100}), "refusals": [0.002] * 100, "usages": usages}
    return overload.Load(seconds=seconds, completed=completed, **(fields | changes))


def overload_with(probe: float = 0.1, slots: int = 0, completed: int = 96, **changes: object) -> set[str]:
    peak = load_of(100)
    outcome = overload.Outcome(peak, (peak, peak), load_of(completed, **changes), probe, slots)
    return missed(overload.figures_of(outcome))


def test_overload_that_holds():
    assert overload_with() == set()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"completed": 94}, "of the peak"),
        ({"refusals": [0.002] * 98 + [0.06] * 2}, "p99 of the time until it"),
        ({"statuses": Counter({200: 96})}, "refused with 429"),
        ({"statuses": Counter({200: 96, 429: 9, 503: 1})}, "other statuses"),
        ({"num_without_retry_after": 1}, "without Retry-After of ≥ 1 whole seconds"),
        ({"num_broken": 1}, "lost connections"),
        ({"usages": [(minute, growing(2 * minute)) for minute in range(10)]}, "RssAnon + VmSwap, slope behind a fifth"),
        ({"probe": 1.5}, "an innocent request afterwards"),
        ({"slots": 1}, "slots left"),
    ],
)
def test_overload_that_does_not(changes, name):
    assert overload_with(**changes) == {name}


@pytest.mark.parametrize("headers", [{}, {b"retry-after": b"0"}, {b"retry-after": b"1.5"}, {b"retry-after": b"soon"}])
def test_a_refusal_must_say_when_to_come_again(headers):
    load = overload.Load()
    load.take(Answer(sent=0, status=429, headers={b"retry-after": b"2"}, ended=0.01))
    assert load.num_without_retry_after == 0

    load.take(Answer(sent=0, status=429, headers=headers, ended=0.01))

    assert load.num_without_retry_after == 1


# ── the others ──


@pytest.mark.parametrize(
    ("gaps", "names"),
    [
        ([0.001] * 9999 + [0.1], set()),
        ([0.001] * 9999 + [0.101], {"the longest"}),
        ([0.001] * 998 + [0.021] * 2, {"long texts (3 × 400): p99.9"}),
        ([], {"long texts (3 × 400): p99.9", "the longest"}),
    ],
)
def test_gaps_of_the_event_loop(gaps, names):
    assert missed(event_loop.Phase("long texts", gaps, Counter({400: 3})).figures()) == names
    assert missed(event_loop.Phase(event_loop.QUIET, gaps, Counter()).figures()) == set()


def test_a_side_channel_is_seen_and_the_lack_of_one():
    rng = random.Random(2)
    seen, unseen, slower = ([rng.gauss(mean, 1) for _ in range(400)] for mean in (10, 10, 10.5))

    assert missed(side_channel.figures_of(side_channel.Times(seen, unseen))) == set()
    assert missed(side_channel.figures_of(side_channel.Times(seen, slower))) == {"its distance from 0.5"}
    assert missed(side_channel.figures_of(side_channel.Times(seen, slower), is_control=True)) == set()
    assert missed(side_channel.figures_of(side_channel.Times(seen, unseen), is_control=True)) != set()


def soak_with(usages: Sequence[Usage], num_lost: int = 0, slots: int = 0) -> set[str]:
    samples = [soak.Sample(60.0 * minute, usage, 3, MB, minute) for minute, usage in enumerate(usages)]
    return missed(soak.figures_of(soak.Record(Counter({"ask: 200": 9}), num_lost, samples, slots), len(usages)))


def test_a_soak_that_holds():
    warming_up = [growing(-20), growing(-5)]

    assert soak_with(warming_up + [FLAT] * 10) == set()


def test_kv_blocks_of_live_slots_are_no_growth():
    samples = [soak.Sample(60.0 * minute, growing(minute), 3, minute * MB, minute) for minute in range(60)]

    assert missed(soak.figures_of(soak.Record(Counter({"ask: 200": 9}), 0, samples, 0), 60)) == set()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"usages": [growing(minute / 25) for minute in range(60)]}, "the same without live KV blocks"),
        ({"usages": [FLAT] * 40 + [replace(FLAT, descriptors=30)] * 20}, "descriptors, growth between halves"),
        ({"usages": [FLAT] * 40 + [replace(FLAT, threads=12)] * 20}, "threads, growth between halves"),
        ({"usages": [FLAT] * 60, "num_lost": 1}, "lost"),
        ({"usages": [FLAT] * 60, "slots": 1}, "slots left"),
    ],
)
def test_a_soak_that_does_not(changes, name):
    assert soak_with(**changes) == {name}


GOOD_KILL = kill.Outcome(num_ended=8, slowest_end=0.1, until_ready=3, num_starts=2, is_equal=True)


@pytest.mark.parametrize(
    ("changes", "num_missed"),
    [
        ({}, 0),
        ({"num_ended": 7}, 1),
        ({"slowest_end": 2.0}, 1),
        ({"until_ready": math.nan}, 1),
        ({"num_starts": 3}, 1),
        ({"is_equal": False}, 1),
    ],
)
def test_a_kill(changes, num_missed):
    assert len(missed(kill.figures_of(replace(GOOD_KILL, **changes)))) == num_missed
