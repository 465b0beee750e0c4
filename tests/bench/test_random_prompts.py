"""Prompts of exact length, with tokenizers of several kinds on the other side."""

import random
from collections.abc import Callable

import pytest

from app.bench.errors import Unusable
from app.bench.random_prompts import FILLER, IdBuilder, Prompt, RandomPrompts, WordBuilder
from app.bench.words import common_words

Encode = Callable[[str], list[int]]


def by_words(text: str) -> list[int]:
    """Each word is a token."""
    return [hash(word) for word in text.split()]


def by_bytes(text: str) -> list[int]:
    return list(text.encode())


def by_short_words(text: str) -> list[int]:
    """Long words are of several tokens, as in a small vocabulary."""
    return [
        hash(part) for word in text.split() for part in (word[place : place + 5] for place in range(0, len(word), 5))
    ]


class Tokenizer:
    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self.num_calls = 0

    async def encode(self, text: str) -> tuple[int, ...]:
        self.num_calls += 1
        return tuple(self._encode(text))


async def prompts_for(
    encode: Encode, added: int, num_tokens: int, *, is_told: bool = True, prefix_len: int = 0
) -> tuple[RandomPrompts, Callable[[Prompt], int]]:
    """With a server that adds so many tokens of its own to each prompt; `is_told`: it has /tokenize."""

    def count(prompt: Prompt) -> int:
        return added + len(encode(prompt) if isinstance(prompt, str) else prompt)

    async def probe(prompt: Prompt) -> int:
        return count(prompt)

    builder = await WordBuilder.measured(Tokenizer(encode) if is_told else None)  # type: ignore[arg-type]
    return await RandomPrompts.calibrated(builder, probe, num_tokens, 0, prefix_len), count


@pytest.mark.parametrize("encode", [by_words, by_bytes, by_short_words])
@pytest.mark.parametrize("added", [0, 1, 23])
async def test_a_prompt_has_exactly_the_length_that_was_asked_for(encode: Encode, added: int) -> None:
    prompts, count = await prompts_for(encode, added, 64)
    rng = random.Random(1)
    for num_tokens in (prompts.shortest, 30, 64, 301):
        assert count(prompts.prompt(rng, max(num_tokens, prompts.shortest))) == max(num_tokens, prompts.shortest)


async def test_without_a_tokenizer_the_length_is_calibrated() -> None:
    prompts, count = await prompts_for(by_words, 5, 64, is_told=False)
    assert count(prompts.prompt(random.Random(1), 50)) == 50
    prompts, count = await prompts_for(by_short_words, 5, 200, is_told=False)
    lengths = [count(prompts.prompt(random.Random(seed), 200)) for seed in range(20)]
    assert sum(lengths) / 20 == pytest.approx(200, rel=0.1)


async def test_prompts_are_different_and_the_same_seed_makes_them_again() -> None:
    prompts, _ = await prompts_for(by_words, 0, 64)
    drawn = [prompts.prompt(random.Random(seed), 64) for seed in range(10)]
    assert len(set(drawn)) == 10
    assert prompts.prompt(random.Random(3), 64) == drawn[3]


async def test_a_shared_beginning_counts_and_is_shared() -> None:
    prompts, count = await prompts_for(by_words, 2, 64, prefix_len=20)
    one, other = (str(prompts.prompt(random.Random(seed), 64)).split() for seed in (1, 2))
    assert one[:21] == other[:21]
    assert one[21:] != other[21:]
    assert count(prompts.prompt(random.Random(1), 64)) == 64
    assert prompts.shortest >= 22


async def test_a_vocabulary_of_words_is_measured_with_two_requests() -> None:
    tokenizer = Tokenizer(by_words)
    builder = await WordBuilder.measured(tokenizer)  # type: ignore[arg-type]
    assert tokenizer.num_calls == 2
    assert set(builder.costs) == set(common_words())


async def test_words_of_several_tokens_are_left_out_where_there_are_enough_others() -> None:
    builder = await WordBuilder.measured(Tokenizer(by_short_words))  # type: ignore[arg-type]
    assert set(builder.costs.values()) == {1}
    assert "government" not in builder.costs


async def test_what_no_word_fits_is_filled_up() -> None:
    builder = await WordBuilder.measured(Tokenizer(by_bytes))  # type: ignore[arg-type]
    assert builder.build([random.Random(0)], [2]) == "The" + FILLER * 2


async def test_token_ids_are_the_tokenizers_and_as_many_as_asked() -> None:
    builder = await IdBuilder.measured(Tokenizer(by_bytes))  # type: ignore[arg-type]
    prompt = builder.build([random.Random(0)], [40])
    assert len(prompt) == 40
    assert set(prompt) <= set(range(256))
    with pytest.raises(Unusable, match="no /tokenize"):
        await IdBuilder.measured(None)


async def test_a_server_that_counts_nothing_is_unusable() -> None:
    async def probe(prompt: Prompt) -> int:
        return 7

    with pytest.raises(Unusable, match="usage cannot be right"):
        await RandomPrompts.calibrated(await WordBuilder.measured(None), probe, 64, 0)


def test_the_words_are_distinct() -> None:
    words = common_words()
    assert len(set(words)) == len(words) > 500
