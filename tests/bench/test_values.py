"""Words of the command line, right and wrong."""

import math
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

import pytest

from app.bench import values


@pytest.mark.parametrize(
    ("read", "word", "value"),
    [
        (values.positive, "12", 12),
        (values.positive, "4k", 4096),
        (values.natural, "0", 0),
        (values.positive_number, "0.5", 0.5),
        (values.positive_number, "inf", math.inf),
        (values.share, "0", 0.0),
        (values.share, "0.25", 0.25),
        (values.temperature, "0", 0.0),
        (values.temperature, "0.7", 0.7),
        (values.percent, "99.9", 99.9),
        (values.duration, "30", 30.0),
        (values.duration, "1.5m", 90.0),
        (values.duration, "200ms", 0.2),
        (values.duration, "1h", 3600.0),
        (values.several(values.positive), "1, 4,16", (1, 4, 16)),
        (values.pair, "a=b=c", ("a", "b=c")),
        (values.pair, "X-Team: red", ("X-Team", "red")),
        (values.limit, "ttft:500", ("ttft", 500.0)),
        (values.json_object, '{"top_k": 3}', {"top_k": 3}),
    ],
)
def test_a_word_has_a_value(read: Callable[[str], Any], word: str, value: object) -> None:
    assert read(word) == value


@pytest.mark.parametrize(
    ("read", "word"),
    [
        (values.positive, "0"),
        (values.positive, "-1"),
        (values.positive, "k"),
        (values.positive, "1.5"),
        (values.natural, "-1"),
        (values.positive_number, "0"),
        (values.positive_number, "nan"),
        (values.positive_number, "fast"),
        (values.share, "1"),
        (values.share, "-0.1"),
        (values.share, "half"),
        (values.percent, "100"),
        (values.duration, "0s"),
        (values.duration, "soon"),
        (values.several(values.positive), "1,,2"),
        (values.pair, "a"),
        (values.pair, "a=b\nc"),
        (values.limit, "latency:5"),
        (values.limit, "ttft"),
        (values.json_object, "[1]"),
        (values.json_object, "{"),
    ],
)
def test_a_wrong_word_is_refused_with_itself_in_the_message(read: Callable[[str], Any], word: str) -> None:
    with pytest.raises(ArgumentTypeError):
        read(word)
