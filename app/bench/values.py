"""Words of the command line as values: each function takes a word and raises argparse's error for a wrong one."""

import json
import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any, TypeVar

DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
LIMITED = ("ttft", "tpot", "e2el")  # what --goodput can limit
ValueT = TypeVar("ValueT")


def positive(word: str) -> int:
    """A whole number above zero; `4k` is 4096."""
    thousands = word.removesuffix("k")
    if not thousands.isdecimal() or int(thousands) == 0:
        raise ArgumentTypeError(f"{word} is not a whole number above 0")
    return int(thousands) * (1 if thousands == word else 1024)


def natural(word: str) -> int:
    return 0 if word == "0" else positive(word)


def positive_number(word: str) -> float:
    """Above zero; `inf` is one."""
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if not number > 0:
        raise ArgumentTypeError(f"{word} is not a number above 0")
    return number


def share(word: str) -> float:
    """From 0 up to, but not including, 1."""
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise ArgumentTypeError(f"{word} is not a number from 0 to below 1")
    return number


def temperature(word: str) -> float:
    return 0.0 if word in ("0", "0.0") else positive_number(word)


def percent(word: str) -> float:
    number = positive_number(word)
    if number >= 100:
        raise ArgumentTypeError(f"{word} is not a number between 0 and 100")
    return number


def duration(word: str) -> float:
    """`30`, `30s`, `2m` → seconds."""
    match = DURATION.fullmatch(word)
    if match is None or float(match[1]) == 0:
        raise ArgumentTypeError(f"{word} is not a time such as 30s or 2m")
    return float(match[1]) * SECONDS[match[2] or "s"]


def several(one: Callable[[str], ValueT]) -> Callable[[str], tuple[ValueT, ...]]:
    """Values between commas."""
    return lambda words: tuple(one(word.strip()) for word in words.split(","))


def pair(word: str) -> tuple[str, str]:
    """`NAME=VALUE`; `NAME: VALUE`, as curl has headers, will do."""
    match = re.fullmatch(r"([^=:\s]+)\s*[=:]\s*(.*)", word)
    if match is None or not word.isprintable():
        raise ArgumentTypeError(f"{word!r} is not NAME=VALUE")
    return match[1], match[2]


def limit(word: str) -> tuple[str, float]:
    """`ttft:500` → a metric and its limit in ms."""
    name, _, number = word.partition(":")
    if name not in LIMITED:
        raise ArgumentTypeError(f"{word} is not like ttft:500; the metrics are {', '.join(LIMITED)}")
    return name, positive_number(number)


def json_object(word: str) -> dict[str, Any]:
    try:
        value = json.loads(word)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ArgumentTypeError(f"{word} is not a JSON object")
    return value
