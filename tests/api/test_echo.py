"""A prompt's own text, and where in it each of its tokens begins."""

import pytest

from app.api.echo import Echo, echo
from app.api.logprobs import TokenTexts
from tests.fakes import BOS, EOS, ByteTokenizer

TEXTS = TokenTexts(ByteTokenizer())
PRINTING = TokenTexts(ByteTokenizer(), prints_special_tokens=True)


def test_a_text_is_echoed_as_it_was_written():
    assert echo("aé世", list("aé世".encode()), TEXTS) == Echo("aé世", (0, 1, 1, 2, 2, 2))


def test_tokens_put_before_a_text_take_no_room_in_it():
    assert echo("ab", [BOS, 97, 98], TEXTS) == Echo("ab", (0, 0, 1))
    assert echo("ab", [32, 97, 98], TEXTS) == Echo("ab", (0, 0, 1))  # one of a single byte, too


@pytest.mark.parametrize("texts", [TEXTS, PRINTING])
def test_special_tokens_that_a_text_names_take_the_room_of_their_names(texts):
    assert echo("a<eos>b", [97, EOS, 98], texts) == Echo("a<eos>b", (0, 1, 6))
    assert echo("<bos>a", [BOS, 97], texts) == Echo("<bos>a", (0, 5))
    assert echo("<bos>a", [BOS, BOS, 97], texts) == Echo("<bos>a", (0, 0, 5))


def test_token_ids_are_echoed_as_they_would_be_printed():
    assert echo([BOS, 97, EOS, 98], [BOS, 97, EOS, 98], TEXTS) == Echo("ab", (0, 0, 1, 1))
    assert echo([97, EOS, 98], [97, EOS, 98], PRINTING) == Echo("a<eos>b", (0, 1, 6))
    assert echo([0xC3], [0xC3], TEXTS) == Echo("\ufffd", (0,))


def test_a_text_that_its_tokenizer_shortens_is_still_its_own():
    assert echo("e\u0301!", [*"é!".encode()], TEXTS) == Echo("e\u0301!", (0, 0, 1))
