"""What a client wants a text to look like, as a value: nothing of it is checked before it is compiled."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

MAX_GRAMMAR = 65_536  # bytes
MAX_REGEX = 4_096  # characters
MAX_CHOICES = 1_024
MAX_PLACE = 100  # characters of a place that are told


class BadGrammar(ValueError):
    """A grammar that cannot be compiled. `place` is where in it, as in `properties.name.minLength`; "": as a whole."""

    def __init__(self, place: str, problem: str) -> None:
        self.place = place if len(place) <= MAX_PLACE else f"…{place[1 - MAX_PLACE :]}"  # its end tells most
        super().__init__(f"{self.place}: {problem}" if place else problem)


class GrammarKind(StrEnum):
    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    CHOICE = "choice"
    LARK = "lark"


@dataclass(frozen=True, slots=True)
class Grammar:
    kind: GrammarKind
    source: str = ""  # a schema or a list of choices as JSON text, an expression, a grammar in llguidance's Lark form

    @classmethod
    def of_schema(cls, schema: Mapping[str, Any]) -> "Grammar":
        return cls(GrammarKind.JSON_SCHEMA, json.dumps(schema, ensure_ascii=False))

    @classmethod
    def of_choices(cls, choices: Sequence[str]) -> "Grammar":
        return cls(GrammarKind.CHOICE, json.dumps(choices, ensure_ascii=False))


ANY_OBJECT = Grammar(GrammarKind.JSON_OBJECT)
