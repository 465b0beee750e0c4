"""Tokens as text and their log-probabilities, where bytes and characters do not fall together."""

import math

from app.api.logprobs import TokenTexts, chat_logprobs, completion_logprobs
from app.engine.request import TokenEvent
from tests.fakes import BOS, ByteTokenizer

TEXTS = TokenTexts(ByteTokenizer())


def events(token_ids, top=()) -> list[TokenEvent]:
    return [TokenEvent(0, token_id, logprob=-1.0, top_logprobs=tuple(top)) for token_id in token_ids]


def offsets(token_ids, num_characters=0) -> list[int]:
    return completion_logprobs(events(token_ids), TEXTS, num_characters)[0].text_offset


def test_an_offset_is_that_of_the_tokens_first_character():
    assert offsets("aé世b".encode()) == [0, 1, 1, 2, 2, 2, 3]


def test_what_is_not_printed_takes_no_room():
    assert offsets([97, BOS, 98]) == [0, 1, 1]


def test_offsets_go_on_where_the_last_tokens_ended():
    first, num_characters = completion_logprobs(events("a世".encode()[:2]), TEXTS, 0)
    then, total = completion_logprobs(events("a世b".encode()[2:]), TEXTS, num_characters)

    assert first.text_offset + then.text_offset == offsets("a世b".encode())
    assert total == 3


def test_a_text_may_begin_within_a_character():
    assert offsets("é".encode()[1:]) == [0]


def test_the_chosen_token_is_always_among_the_top():
    logprobs, _ = completion_logprobs(events([97], top=[(98, -0.1), (99, -0.2)]), TEXTS, 0)

    assert logprobs.top_logprobs == [{"b": -0.1, "c": -0.2, "a": -1.0}]


def test_of_tokens_with_one_text_the_most_likely_stands():
    logprobs, _ = completion_logprobs(events([0xC5], top=[(0xC3, -0.1), (0xC4, -0.2)]), TEXTS, 0)

    assert logprobs.top_logprobs == [{"\ufffd": -0.1}]


def test_minus_infinity_becomes_a_number():
    event = TokenEvent(0, 97, logprob=-0.5, top_logprobs=((98, -math.inf),))

    assert completion_logprobs([event], TEXTS, 0)[0].top_logprobs == [{"b": -9999.0, "a": -0.5}]
    assert chat_logprobs([event], TEXTS).content[0].top_logprobs[0].logprob == -9999.0


def test_the_bytes_of_a_token_are_exact():
    assert [entry.bytes for entry in chat_logprobs(events("é".encode()), TEXTS).content] == [[0xC3], [0xA9]]
