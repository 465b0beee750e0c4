"""Tokens as text and their log-probabilities, where bytes and characters do not fall together."""

import math

from app.api.logprobs import (
    Offsets,
    TokenTexts,
    chat_logprobs,
    completion_logprobs,
    prompt_logprobs,
    scored,
    scored_prompt,
)
from app.engine.request import TokenEvent
from model.batch import TargetLogprob
from tests.fakes import BOS, ByteTokenizer

TEXTS = TokenTexts(ByteTokenizer())


def events(token_ids, top=()) -> list[TokenEvent]:
    return [TokenEvent(0, token_id, logprob=-1.0, top_logprobs=tuple(top)) for token_id in token_ids]


def offsets(token_ids, counting: Offsets | None = None) -> list[int]:
    counting = counting or Offsets()
    return [counting.next(TEXTS.printed(token_id)) for token_id in token_ids]


def top_logprobs(event: TokenEvent) -> dict[str, float] | None:
    return completion_logprobs(scored([event]), [0], TEXTS).top_logprobs[0]


def test_an_offset_is_that_of_the_tokens_first_character():
    assert offsets("aé世b".encode()) == [0, 1, 1, 2, 2, 2, 3]


def test_what_is_not_printed_takes_no_room():
    assert offsets([97, BOS, 98]) == [0, 1, 1]


def test_offsets_go_on_where_the_last_tokens_ended():
    counting = Offsets()

    assert offsets("a世".encode()[:2], counting) + offsets("a世b".encode()[2:], counting) == offsets("a世b".encode())
    assert counting.num_characters == 3


def test_a_text_may_begin_within_a_character():
    assert offsets("é".encode()[1:]) == [0]


def test_the_chosen_token_is_always_among_the_top():
    event = events([97], top=[(98, -0.1), (99, -0.2)])[0]

    assert top_logprobs(event) == {"b": -0.1, "c": -0.2, "a": -1.0}
    assert [one.token for one in chat_logprobs([event], TEXTS).content[0].top_logprobs] == ["b", "c", "a"]


def test_of_tokens_with_one_text_the_most_likely_stands():
    assert top_logprobs(events([0xC5], top=[(0xC3, -0.1), (0xC4, -0.2)])[0]) == {"\ufffd": -0.1}


def test_minus_infinity_becomes_a_number():
    event = TokenEvent(0, 97, logprob=-0.5, top_logprobs=((98, -math.inf),))

    assert top_logprobs(event) == {"b": -9999.0, "a": -0.5}
    assert chat_logprobs([event], TEXTS).content[0].top_logprobs[0].logprob == -9999.0


def test_the_bytes_of_a_token_are_exact():
    assert [entry.bytes for entry in chat_logprobs(events("é".encode()), TEXTS).content] == [[0xC3], [0xA9]]


def test_an_event_without_a_token_has_no_logprob():
    assert scored([TokenEvent(0, text="late")]) == []
    assert chat_logprobs([TokenEvent(0, text="late")], TEXTS).content == []


def test_special_tokens_take_room_where_they_are_printed():
    printing = TokenTexts(ByteTokenizer(), prints_special_tokens=True)

    assert (TEXTS.printed(BOS), printing.printed(BOS)) == (b"", b"<bos>")


TARGETS = [TargetLogprob(-2.0, ((98, -0.5), (99, -1.0))), TargetLogprob(-0.5, ((99, -0.5), (100, -1.0)))]


def test_a_prompts_first_token_has_no_logprob_and_the_others_have_their_own_and_the_top():
    found = prompt_logprobs(scored_prompt([97, 100, 99], TARGETS, 1), TEXTS)

    first, *others = [
        entry and {key: tuple(one.model_dump().values()) for key, one in entry.items()} for entry in found
    ]
    assert first is None
    assert others == [{98: (-0.5, 1, "b"), 100: (-2.0, None, "d")}, {99: (-0.5, 1, "c")}]


def test_of_a_prompt_that_was_not_read_to_its_end_the_rest_is_left_out():
    assert [token.token_id for token in scored_prompt([97, 98, 99], TARGETS[:1], 0)] == [97, 98]
