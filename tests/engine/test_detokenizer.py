import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.detokenizer import Detokenizer, Vocabulary
from tests.fakes import BOS, BYTES, EOS


def type_out(text: str | bytes, *stop: str) -> tuple[list[str], str | None]:
    """What each byte of `text` made printable, the flush last, until a stop string ended it."""
    detokenizer = Detokenizer(BYTES, stop)
    pieces = []
    for byte in text.encode() if isinstance(text, str) else text:
        pieces.append(detokenizer.push(byte))
        if detokenizer.matched is not None:
            return pieces, detokenizer.matched
    return [*pieces, detokenizer.flush()], None


def test_a_character_comes_whole() -> None:
    assert type_out("a€😀")[0] == ["a", "", "", "€", "", "", "", "😀", ""]


def test_half_a_character_at_the_end_is_a_replacement_character() -> None:
    assert type_out(b"a" + "😀".encode()[:3])[0] == ["a", "", "", "", "\ufffd"]


def test_special_tokens_print_nothing() -> None:
    detokenizer = Detokenizer(BYTES)
    assert [detokenizer.push(token) for token in (BOS, ord("a"), EOS)] == ["", "a", ""]


def test_a_stop_string_ends_the_text_before_itself() -> None:
    pieces, matched = type_out("one two three", " t")
    assert ("".join(pieces), matched) == ("one", " t")


def test_the_beginning_of_a_stop_string_is_held_back_and_comes_when_it_was_none() -> None:
    assert type_out("ab-cab", "abc")[0] == ["", "", "ab-", "c", "", "", "ab"]


def test_special_tokens_are_printed_where_they_are_asked_for() -> None:
    detokenizer = Detokenizer(BYTES, prints_special_tokens=True)
    assert [detokenizer.push(token) for token in (BOS, ord("a"), EOS)] == ["<bos>", "a", "<eos>"]


def test_a_stop_string_ends_the_text_behind_itself_where_it_is_included() -> None:
    detokenizer = Detokenizer(Vocabulary((b"one", b" two", b"o three"), frozenset()), ("two",), includes_stop=True)
    assert [detokenizer.push(token) for token in (0, 1)] == ["one", " two"]
    assert detokenizer.matched == "two"
    across = Detokenizer(Vocabulary((b"one tw", b"o three"), frozenset()), ("two",), includes_stop=True)
    assert [across.push(token) for token in (0, 1)] == ["one ", "two"]


def test_of_two_stop_strings_in_one_token_the_earlier_counts() -> None:
    vocabulary = Vocabulary((b"x one two",), frozenset())
    detokenizer = Detokenizer(vocabulary, ("two", "one"))
    assert (detokenizer.push(0), detokenizer.matched) == ("x ", "one")


def test_stop_strings_that_overlap_themselves() -> None:
    pieces, matched = type_out("aaab", "aab")
    assert ("".join(pieces), matched) == ("a", "aab")


def test_a_stop_string_cut_through_a_character() -> None:
    pieces, matched = type_out("a😀b", "😀")
    assert ("".join(pieces), matched) == ("a", "😀")


def test_text_before_min_tokens_does_not_stop_but_is_printed() -> None:
    detokenizer = Detokenizer(BYTES, ("b",))
    assert [detokenizer.push(ord(letter), may_stop=False) for letter in "ab"] == ["a", "b"]
    assert detokenizer.push(ord("b")) == ""
    assert detokenizer.matched == "b"


@given(st.binary(max_size=30))
def test_the_pieces_make_up_the_decoded_whole(data: bytes) -> None:
    assert "".join(type_out(data)[0]) == data.decode(errors="replace")


@given(st.text("ab€", max_size=12), st.lists(st.text("ab€", min_size=1, max_size=4), min_size=1, max_size=3))
def test_no_piece_leaks_a_stop_string(text: str, stop: list[str]) -> None:
    pieces, matched = type_out(text, *stop)
    printed = "".join(pieces)
    assert not any(one in printed for one in stop)
    if matched is None:
        assert printed == text
    else:
        assert text.startswith(printed + matched)


@pytest.mark.parametrize("cut", range(1, 8))
def test_tokens_of_several_bytes_cut_anywhere(cut: int) -> None:
    data = "né€😀x".encode()
    tokens = tuple(data[start : start + cut] for start in range(0, len(data), cut))
    detokenizer = Detokenizer(Vocabulary(tokens, frozenset()))
    pieces = [detokenizer.push(token) for token in range(len(tokens))]
    assert "".join([*pieces, detokenizer.flush()]) == "né€😀x"
    assert not any("\ufffd" in piece for piece in pieces)
