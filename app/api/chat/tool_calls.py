"""What stands between the tags of one tool call → the call."""

import json
from dataclasses import dataclass
from typing import Any, NoReturn


@dataclass(frozen=True, slots=True)
class ReadCall:
    name: str
    arguments: str  # a JSON text of an object


def read_call(text: str) -> ReadCall | None:
    """{"name": …, "arguments": {…}}, as Qwen, Hermes and MiniMind models write it; `parameters` is Llama's word. No
    arguments are empty ones, and they may be a JSON text in a string. None for anything else."""
    said = _read(text)
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        return None
    arguments = said.get("arguments", said.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _read(arguments)
    if not isinstance(arguments, dict):
        return None
    return ReadCall(said["name"], json.dumps(arguments, ensure_ascii=False))


class JsonStrings:
    """Looks at each character of a growing JSON text once."""

    def __init__(self) -> None:
        self._num_read = 0
        self._is_inside = False
        self._is_escaped = False

    def end_in(self, text: str) -> bool:
        """Whether `text`, which begins with those asked about before, ends within a string."""
        for character in text[self._num_read :]:
            if self._is_escaped:
                self._is_escaped = False
            elif character == "\\":
                self._is_escaped = self._is_inside
            elif character == '"':
                self._is_inside = not self._is_inside
        self._num_read = len(text)
        return self._is_inside


def is_json(text: str) -> bool:
    """Whether it is a whole JSON text."""
    return _read(text) is not None


def _read(text: str) -> Any:
    """None for what is no JSON, but for line breaks in strings, which models forget to escape."""
    try:
        return json.loads(text, strict=False, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")
