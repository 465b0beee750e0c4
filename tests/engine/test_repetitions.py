from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.repetitions import Repetitions
from app.engine.request import Dry

DRY = Dry(multiplier=0.8, base=2.0, allowed_length=2)


def biases(dry: Dry, tokens: list[int]) -> dict[int, float]:
    return dict(Repetitions(dry, tokens).biases())


def by_the_book(dry: Dry, tokens: list[int]) -> dict[int, float]:
    """Every earlier place in the window, backwards from it as far as it is like the end."""
    window = tokens if dry.last_n < 0 else tokens[len(tokens) - min(dry.last_n, len(tokens)) :]
    longest: dict[int, int] = {}
    for place in range(len(window) - 1):
        length = 0
        while length <= place and window[place - length] == window[-1 - length]:
            if window[place - length] in dry.breaker_token_ids:
                break
            length += 1
        following = window[place + 1]
        if length >= dry.allowed_length and following not in dry.breaker_token_ids:
            longest[following] = max(length, longest.get(following, 0))
    return {token: -min(1e4, dry.multiplier * dry.base ** (n - dry.allowed_length)) for token, n in longest.items()}


def test_what_would_prolong_a_repetition_is_penalised_the_more_the_longer_it_is() -> None:
    assert biases(DRY, [1, 2, 3, 9, 2]) == {}
    assert biases(DRY, [1, 2, 3, 9, 1, 2]) == {3: -0.8}
    assert biases(DRY, [5, 1, 2, 3, 9, 5, 1, 2]) == {3: -1.6}
    assert biases(DRY, [1, 2, 3, 1, 2, 4, 1, 2]) == {3: -0.8, 4: -0.8}


def test_no_repetition_reaches_over_a_breaker_or_is_prolonged_by_one() -> None:
    dry = replace(DRY, breaker_token_ids=frozenset({0}))
    assert biases(dry, [5, 0, 1, 2, 3, 5, 0, 1, 2]) == {3: -0.8}
    assert biases(dry, [1, 0, 3, 1, 0]) == {}
    assert biases(dry, [1, 2, 0, 1, 2]) == {}


def test_only_the_last_tokens_are_searched() -> None:
    tokens = [5, 1, 2, 3, 9, 5, 1, 2]
    assert biases(replace(DRY, last_n=8), tokens) == {3: -1.6}
    assert biases(replace(DRY, last_n=7), tokens) == {3: -0.8}
    assert biases(replace(DRY, last_n=6), tokens) == {}
    assert biases(replace(DRY, last_n=0), tokens) == {}


def test_the_penalty_of_a_very_long_repetition_is_a_number_that_float32_has() -> None:
    assert biases(DRY, [1] * 5000) == {1: -1e4}
    assert biases(replace(DRY, base=1.0), [1] * 5000) == {1: -0.8}


def test_a_long_prompt_that_only_repeats_itself_is_read_at_once() -> None:
    """A pass over all pairs of its tokens would take minutes."""
    assert biases(DRY, [1] * 300_000) == {1: -1e4}


TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=14)


@given(
    TOKENS,
    TOKENS,
    st.builds(
        Dry,
        multiplier=st.just(0.5),
        base=st.sampled_from([1.0, 1.75]),
        allowed_length=st.integers(1, 3),
        last_n=st.integers(-1, 20),
        breaker_token_ids=st.frozensets(st.integers(0, 3), max_size=2),
    ),
    st.sets(st.integers(0, 13)),
)
def test_token_by_token_it_is_what_it_is_by_the_book(
    prompt: list[int], output: list[int], dry: Dry, unasked: set[int]
) -> None:
    tokens = list(prompt)
    repetitions = Repetitions(dry, tokens)
    assert dict(repetitions.biases()) == pytest.approx(by_the_book(dry, tokens))
    for number, token in enumerate(output):
        tokens.append(token)
        if number not in unasked:
            assert dict(repetitions.biases()) == pytest.approx(by_the_book(dry, tokens))
