"""Types and bounds of metadata, and the memory of what was asked for."""

import math
from pathlib import Path
from typing import Any

import pytest

from model.errors import ModelError
from model.formats.gguf_keys import Keys


def keys(**values: Any) -> Keys:
    return Keys(Path("m.gguf"), {f"llama.{name}": value for name, value in values.items()} | {"other.n": 1}, "llama.")


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", [], [1, 2], [1, 1.5], [True, True], 11])
def test_an_integer_is_a_whole_number_within_bounds(value: Any) -> None:
    with pytest.raises(ModelError, match=r"^m\.gguf: metadata key 'llama\.n' is .* 1 to 10, is needed"):
        keys(n=value).integer("n", most=10)


def test_an_integer_may_be_given_for_every_layer() -> None:
    assert keys(n=[3, 3, 3]).integer("n") == 3


@pytest.mark.parametrize("value", [0.0, -1, math.nan, math.inf, "1", True, [1.0]])
def test_a_number_is_finite_and_above_its_bound(value: Any) -> None:
    with pytest.raises(ModelError, match=r"a finite number above 0 is needed"):
        keys(n=value).number("n")


def test_a_number_may_be_whole_and_may_touch_its_bound_where_that_is_said() -> None:
    assert keys(n=2).number("n") == 2.0
    assert keys(n=0.0).number("n", or_equal=True) == 0.0


def test_a_number_within_bounds_may_touch_both_and_may_be_absent() -> None:
    assert [keys(n=value).number_within("n", 0.5, 1) for value in (0.5, 1)] == [0.5, 1.0]
    assert keys().number_within("n", 0.5, 1) is None
    for value in (0.49, 1.01, math.nan):
        with pytest.raises(ModelError, match=r"a finite number of at least 0\.5 and at most 1 is needed"):
            keys(n=value).number_within("n", 0.5, 1)


def test_a_text_is_a_text() -> None:
    assert keys(n="yarn").text("n") == "yarn"
    with pytest.raises(ModelError, match="a text is needed"):
        keys(n=1).text("n")


def test_what_is_absent_has_its_default_or_is_missing() -> None:
    assert (keys().integer("n", 5), keys().number("n", 0.5), keys().text("n", "a")) == (5, 0.5, "a")
    for read in (Keys.integer, Keys.number, Keys.text):
        with pytest.raises(ModelError, match=r"'llama\.n' is missing"):
            read(keys(), "n")


def test_a_long_value_is_cut_short_in_the_message() -> None:
    assert len(str(keys(n=["token"] * 10**6).error("n", "wrong."))) < 200


def test_the_others_are_those_under_the_prefix_that_nobody_asked_for() -> None:
    some = keys(a=1, b=2, c=3)
    some.integer("a")
    assert "b" in some  # looking is not asking
    assert dict(some.others()) == {"b": 2, "c": 3}
