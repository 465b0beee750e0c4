"""The series of requests: lengths, seeds, cancelled ones."""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest

from app.bench.prompts import (
    AskSource,
    ConversationLengths,
    Draft,
    FileWorkload,
    FixedLengths,
    RandomWorkload,
)
from app.bench.random_prompts import RandomPrompts, WordBuilder
from app.bench.records import Ask
from app.bench.words import common_words


class Numbers:
    """A workload of prompts drawn from the generator."""

    def drafts(self, rng: random.Random) -> Iterator[Draft]:
        while True:
            yield Draft(str(rng.random()), 1, 10)


def source(**fields: Any) -> AskSource:
    return AskSource(**{"workload": Numbers(), "seed": 0, "is_seeded": False} | fields)


def drawn(source: AskSource, load: int = 0, count: int = 200) -> list[Ask]:
    return list(islice(source.asks(load), count))


def random_workload(lengths: FixedLengths | ConversationLengths, offset: float = 1.0) -> RandomWorkload:
    return RandomWorkload(RandomPrompts(WordBuilder(dict.fromkeys(common_words(), 1)), 1.0, offset, 0, 0), lengths)


def test_the_same_seed_asks_the_same() -> None:
    one, other = source(is_seeded=True, cancel_fraction=0.3), source(is_seeded=True, cancel_fraction=0.3)
    assert drawn(one) == drawn(other)
    assert drawn(one) != drawn(source(seed=1, is_seeded=True, cancel_fraction=0.3))


def test_each_load_has_prompts_of_its_own() -> None:
    assert not {ask.prompt for ask in drawn(source(), 0)} & {ask.prompt for ask in drawn(source(), 1)}


def test_requests_are_numbered_and_seeded_only_if_they_are_sampled() -> None:
    assert [ask.number for ask in drawn(source())] == list(range(200))
    assert all(ask.seed is None for ask in drawn(source()))
    assert len({ask.seed for ask in drawn(source(is_seeded=True))}) == 200


def test_a_fraction_is_cancelled_midway() -> None:
    asks = drawn(source(cancel_fraction=0.25), count=2000)
    cancelled = [ask.cancel_after for ask in asks if ask.cancel_after is not None]
    assert len(cancelled) == pytest.approx(500, rel=0.15)
    assert set(cancelled) == set(range(1, 10))
    assert all(ask.cancel_after is None for ask in drawn(source()))


def test_cancelling_changes_nothing_else() -> None:
    assert [ask.prompt for ask in drawn(source())] == [ask.prompt for ask in drawn(source(cancel_fraction=0.5))]


def test_fixed_lengths_spread_as_far_as_they_are_told() -> None:
    rng = random.Random(0)
    assert {FixedLengths(10, 20).draw(rng) for _ in range(20)} == {(10, 20)}
    inputs, outputs = zip(*(FixedLengths(10, 20, 0.5).draw(rng) for _ in range(500)), strict=True)
    assert (min(inputs), max(inputs), min(outputs), max(outputs)) == (5, 15, 10, 30)


def test_conversations_have_the_means_that_were_published_and_a_long_tail() -> None:
    rng = random.Random(0)
    lengths = np.array([ConversationLengths().draw(rng) for _ in range(20_000)])
    assert lengths.min() >= 4
    assert lengths.max() <= 1024
    assert lengths[:, 0].mean() == pytest.approx(161, rel=0.1)
    assert lengths[:, 1].mean() == pytest.approx(338, rel=0.2)  # the longest are cut off
    assert np.median(lengths[:, 0]) < 0.7 * lengths[:, 0].mean()


def test_a_random_request_has_the_words_for_its_length() -> None:
    ask = drawn(source(workload=random_workload(FixedLengths(10, 20))))[0]
    assert (ask.num_prompt_tokens, ask.max_tokens) == (10, 20)
    assert len(str(ask.prompt).split()) == 10


def test_no_request_is_shorter_than_what_the_server_adds() -> None:
    asks = drawn(source(workload=random_workload(ConversationLengths(), offset=30.0)), count=500)
    assert min(ask.num_prompt_tokens or 0 for ask in asks) == 30


def test_lengths_can_be_changed_where_requests_are_made_of_lengths() -> None:
    resized = source(workload=random_workload(FixedLengths(10, 20, 0.0))).resized(30, None)
    assert (drawn(resized)[0].num_prompt_tokens, drawn(resized)[0].max_tokens) == (30, 20)
    of_numbers = source()
    assert of_numbers.resized(30, 40) is of_numbers


def test_a_files_requests_are_all_asked_before_one_is_asked_again() -> None:
    rows = [(f"prompt {number}", number + 1 if number else None) for number in range(10)]
    asks = drawn(source(workload=FileWorkload(rows, None)), count=20)
    assert {ask.prompt for ask in asks[:10]} == {ask.prompt for ask in asks[10:]} == {prompt for prompt, _ in rows}
    assert [ask.prompt for ask in asks[:10]] != [prompt for prompt, _ in rows], "they are shuffled"
    assert {ask.max_tokens for ask in asks} == {128, *range(2, 11)}
    assert all(ask.num_prompt_tokens is None for ask in asks)
    assert {ask.max_tokens for ask in drawn(source(workload=FileWorkload(rows, 7)))} == {7}
