"""What is JSON here, and what only some readers would take for it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.strict_json import MAX_NESTING, read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_whatever_is_written_is_read(value, ascii_only):
    read = read_json(json.dumps(value, ensure_ascii=ascii_only).encode())

    assert read.value == value
    assert not read.has_non_numbers


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        ("{}".encode("utf-16"), "UTF-8"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b"{} {}", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1,}', "not JSON"),
        (b'{"a": "\x01"}', "not JSON"),
        (b'{"a": 1, "a": 1}', "same name twice"),
        (b'{"a": 1, "\\u0061": 2}', "same name twice"),
        (b'{"x": [{"a": {}, "a": null}]}', "same name twice"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\uDfff": 1}', "surrogate"),
        (b'["\\udc00\\ud800"]', "surrogate"),
        (b"[" * 100_000, "deep"),
        (b"9" * 5000, "digits"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_is_not_json_is_refused_without_a_word_of_it(raw, problem):
    with pytest.raises(ValueError, match=problem) as caught:
        read_json(raw)
    assert "9999" not in str(caught.value)


def test_a_whole_pair_is_a_character():
    assert read_json(b'"\\ud83d\\ude00"').value == "😀"


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
def test_nesting_ends(opened, closed):
    def nested(depth: int) -> bytes:
        return (opened * depth + "1" + closed * depth).encode()

    assert read_json(nested(MAX_NESTING)).value
    with pytest.raises(ValueError, match="nested"):
        read_json(nested(MAX_NESTING + 1))


def test_brackets_in_texts_and_side_by_side_are_no_nesting():
    assert read_json(json.dumps({"a": "[" * 1000, "b": [[1]] * 1000}).encode()).value


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_what_is_no_number_is_told(number):
    assert read_json(b'{"a": [' + number + b"]}").has_non_numbers
