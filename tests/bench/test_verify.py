"""The proof of isolation, against live servers: one that is sound, and ones with planted cross-talk."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import pytest

from app.bench.records import Ask, Failure, Record, RunSettings
from app.bench.run import run_load
from app.bench.verify import MAX_KEPT, MIN_COMPARED, Difference, Kept, Verdict, Witness, replay
from tests.api.api_parts import build
from tests.bench.crosstalk import (
    LeakyRunner,
    MoodyRunner,
    always,
    at_last_token_of_sixteen,
    if_seeded,
    never,
)
from tests.fakes import FakeRunner, says
from tests.live_server import serve

SETTINGS = RunSettings("http://nowhere", "fake", concurrency=4, num_prompts=32)


def asks(count: int = 32) -> list[Ask]:
    return [Ask(number, (number + 1, 7, number % 5), 3, 16) for number in range(count)]


async def verdict_on(runner: FakeRunner, requests: Iterable[Ask] = (), **changes: object) -> Verdict:
    requests = list(requests or asks())
    with serve(build(runner)) as server:
        settings = replace(SETTINGS, base_url=server.url, num_prompts=len(requests), **changes)
        witness = Witness(settings)
        await run_load(settings, witness.mark(requests), on_record=witness.take)
        return await replay(settings, witness.kept)


# ── what a server does ──


async def test_a_sound_server_is_verified_greedy_and_seeded():
    verdict = await verdict_on(LeakyRunner(never))

    assert verdict.holds, list(verdict.lines())
    assert (verdict.num_greedy, verdict.num_seeded) == (16, 16)
    assert verdict.num_distinct > 20
    assert len(list(verdict.lines())) == 1


async def test_cross_talk_is_found():
    verdict = await verdict_on(LeakyRunner(always))

    assert not verdict.holds
    assert len(verdict.differences) >= 20
    assert all(difference.is_repeatable for difference in verdict.differences)
    assert all(difference.loaded_tokens == difference.alone_tokens == 16 for difference in verdict.differences)


async def test_cross_talk_among_seeded_requests_alone_is_found_and_named():
    verdict = await verdict_on(LeakyRunner(if_seeded))

    assert not verdict.holds
    assert {difference.is_seeded for difference in verdict.differences} == {True}
    assert len(verdict.differences) >= 10


async def test_cross_talk_in_one_position_of_sixteen_is_found():
    verdict = await verdict_on(LeakyRunner(at_last_token_of_sixteen))

    assert not verdict.holds
    assert {difference.place for difference in verdict.differences} <= {12, 13}  # after a prompt of three tokens


async def test_a_server_that_never_repeats_itself_is_told_from_one_with_cross_talk():
    verdict = await verdict_on(MoodyRunner(never))

    assert not verdict.holds
    assert not any(difference.is_repeatable for difference in verdict.differences)
    assert "alone twice" in str(verdict.differences[0])
    assert "company" not in "".join(verdict.lines())


async def test_a_server_that_says_the_same_to_all_proves_nothing():
    verdict = await verdict_on(FakeRunner(says("Because.")))

    assert not verdict.differences
    assert not verdict.holds
    assert "the same" in verdict.shortcomings[0]


async def test_too_few_requests_prove_nothing():
    verdict = await verdict_on(LeakyRunner(never), asks(MIN_COMPARED - 1))

    assert not verdict.holds
    assert verdict.shortcomings == ["only 19 requests could be compared, and 20 are needed"]


async def test_chats_are_verified_too():
    chats = [Ask(number, f"What is {number}?", None, 16) for number in range(24)]
    verdict = await verdict_on(LeakyRunner(never), chats, endpoint="chat")
    leaking = await verdict_on(LeakyRunner(always), chats, endpoint="chat")

    assert verdict.holds, list(verdict.lines())
    assert len(leaking.differences) >= 12


async def test_a_server_that_is_gone_for_the_replays_verifies_nothing():
    with serve(build(LeakyRunner(never))) as server:
        settings = replace(SETTINGS, base_url=server.url)
        witness = Witness(settings)
        await run_load(settings, witness.mark(asks()), on_record=witness.take)
    verdict = await replay(settings, witness.kept)

    assert not verdict.holds
    assert "unreachable" in verdict.shortcomings[0]
    assert any("not asked again" in failure for failure in verdict.failures)


async def test_an_interrupted_proof_is_none():
    stop = asyncio.Event()
    stop.set()
    with serve(build(LeakyRunner(never))) as server:
        settings = replace(SETTINGS, base_url=server.url)
        witness = Witness(settings)
        await run_load(settings, witness.mark(asks()), on_record=witness.take)
        verdict = await replay(settings, witness.kept, stop)

    assert not verdict.holds
    assert "32 requests were not asked again" in verdict.shortcomings


# ── which requests are witnesses ──


def answered(ask: Ask) -> Record:
    return Record(ask.number, 0.0, 0.0, 0.1, 0.2, 3, 4, text=f"answer {ask.number}")


def witnessed(count: int, settings: RunSettings = SETTINGS) -> Witness:
    witness = Witness(settings)
    for ask in witness.mark(Ask(number, "x", 1, 4) for number in range(count)):
        if ask.keep_text:
            witness.take(answered(ask))
    return witness


@pytest.mark.parametrize("count", [20, 64, 65, 500, 10_000])
def test_witnesses_are_enough_never_many_from_all_of_the_run_and_half_of_them_seeded(count):
    kept = witnessed(count).kept

    assert MIN_COMPARED <= len(kept) <= MAX_KEPT
    assert kept[-1].ask.number >= count * 0.9
    assert 0.4 <= sum(one.is_seeded for one in kept) / len(kept) <= 0.6


def test_greedy_and_seeded_requests_say_so_to_the_server():
    greedy, seeded = Witness(SETTINGS).mark([Ask(0, "x", 1, 4), Ask(1, "x", 1, 4)])

    assert greedy.temperature == 0
    assert (seeded.temperature, seeded.seed) == (1.0, 1)


def test_a_run_s_own_temperature_and_seeds_are_kept():
    warm = replace(SETTINGS, temperature=0.3)
    _, seeded = Witness(warm).mark([Ask(0, "x", 1, 4), Ask(1, "x", 1, 4, seed=99)])

    assert (seeded.temperature, seeded.seed) == (0.3, 99)


def test_requests_that_fail_or_are_cancelled_are_no_witnesses():
    witness = Witness(SETTINGS)
    cancelled, failed, fine = witness.mark([Ask(0, "x", 1, 4, cancel_after=2), Ask(1, "x", 1, 4), Ask(2, "x", 1, 4)])
    assert not cancelled.keep_text
    witness.take(replace(answered(failed), failure=Failure.BROKEN))
    witness.take(answered(fine))

    assert [kept.ask.number for kept in witness.kept] == [2]


# ── what is said ──


def test_a_difference_shows_where_it_is():
    difference = Difference(7, True, "the cat sat on", "the cat ran on", 4, 4, is_repeatable=True)

    assert difference.place == 8
    assert "request 7 (seeded) differs after 8 characters" in str(difference)
    assert "sat on" in str(difference)
    assert "ran on" in str(difference)


def test_an_answer_that_ends_early_differs_where_it_ends():
    assert Difference(1, False, "abc", "abcdef", 3, 6, is_repeatable=True).place == 3


async def test_the_same_text_in_another_number_of_tokens_is_a_difference():
    with serve(build(LeakyRunner(never))) as server:
        settings = replace(SETTINGS, base_url=server.url)
        witness = Witness(settings)
        await run_load(settings, witness.mark(asks()), on_record=witness.take)
        first, *others = witness.kept
        miscounted = Kept(first.ask, replace(first.record, output_tokens=15))
        verdict = await replay(settings, [miscounted, *others])

    assert [difference.number for difference in verdict.differences] == [first.ask.number]
    assert not verdict.holds


def test_a_verdict_is_json():
    verdict = Verdict(10, 10, 20, (Difference(7, True, "a", "b", 1, 1, is_repeatable=True),), ())

    assert verdict.as_json() == {
        "holds": False,
        "greedy": 10,
        "seeded": 10,
        "distinct": 20,
        "shortcomings": [],
        "differences": [
            {
                "number": 7,
                "is_seeded": True,
                "place": 0,
                "loaded": "a",
                "alone": "b",
                "loaded_tokens": 1,
                "alone_tokens": 1,
                "is_repeatable": True,
            }
        ],
    }
