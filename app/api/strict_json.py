"""JSON as RFC 8259 has it, and only what every reader understands in one way: no name twice in an object, no half of a
surrogate pair, no byte order mark, UTF-8 alone, nesting that ends.

It is read once, here; what is checked later is what was read. Messages never repeat a part of the text.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_NESTING = 128  # far more than any request has, a JSON schema's included
HALF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")  # … or a whole one, which has two of these


class BadJson(ValueError):
    """What is wrong with the text, behind its name: "is not JSON"."""


@dataclass(frozen=True, slots=True)
class ReadJson:
    value: Any
    has_non_numbers: bool  # NaN or an infinity is in it, which is no JSON: it waits for whoever can name the field


def read_json(raw: bytes) -> ReadJson:
    """Raises BadJson."""
    non_numbers: list[float] = []

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):  # 1e999, too
            non_numbers.append(value)
        return value

    try:
        value = json.loads(raw.decode(), object_pairs_hook=_object, parse_float=number, parse_constant=number)
    except UnicodeDecodeError:
        raise BadJson("is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadJson(f"is not JSON, at line {error.lineno}, column {error.colno}") from None
    except BadJson:
        raise
    except ValueError:  # Python's own bound on what it reads
        raise BadJson("has a number of too many digits") from None
    except RecursionError:
        raise _too_deep() from None
    _check_nesting(raw, value)
    _check_pairs(raw, value)
    return ReadJson(value, bool(non_numbers))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise BadJson("has an object with the same name twice")
    return members


def _check_nesting(raw: bytes, value: Any) -> None:
    if raw.count(b"[") + raw.count(b"{") <= MAX_NESTING:
        return
    level = [value]
    for _ in range(MAX_NESTING):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise _too_deep()


def _inside(value: Any) -> Iterator[Any]:
    """The lists and objects one level further in."""
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (member for member in members if isinstance(member, list | dict))


def _check_pairs(raw: bytes, value: Any) -> None:
    """Only an escape can be half of a pair: UTF-8 has none."""
    if HALF_A_PAIR.search(raw) is None:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadJson("has half of a surrogate pair") from None


def _too_deep() -> BadJson:
    return BadJson(f"is nested more than {MAX_NESTING} deep")
