"""Messages as chat templates expect them: what clients write in several ways, in the one way that every template finds.
Renders nothing."""

import json
from collections.abc import Mapping
from typing import Any

_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")  # clients name it differently; the first one counts


class ChatTemplateError(ValueError):
    """A template that does not compile, or does not take these messages. The message is the template's own."""


class CostlyTemplateError(ChatTemplateError):
    """A template that takes too long, or makes too much."""


class Arguments(dict[str, Any]):
    """Of a call, which clients have as a JSON text, some templates too, and others as an object: it is both, and where
    a template prints it, with tojson or without, it is the text as the model once wrote it."""

    def __init__(self, values: Mapping[str, Any], text: str) -> None:
        super().__init__(values)
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __add__(self, other: object) -> str:
        return self.text + other if isinstance(other, str) else NotImplemented

    def __radd__(self, other: object) -> str:
        return other + self.text if isinstance(other, str) else NotImplemented


def prepare(message: Mapping[str, Any]) -> dict[str, Any]:
    """Content in text parts is joined by newlines; a key whose value is None counts as absent; reasoning has all the
    names that transformers gives it. Raises ChatTemplateError."""
    prepared = {key: value for key, value in message.items() if value is not None}
    if isinstance(prepared.get("content"), list):
        prepared["content"] = "\n".join(_part_text(part) for part in prepared["content"])
    reasoning = next((prepared[name] for name in _REASONING_FIELDS if name in prepared), None)
    if reasoning is not None:
        prepared = {"thinking": reasoning, **prepared, "reasoning_content": reasoning}
    if "tool_calls" in prepared:
        prepared["tool_calls"] = [_with_arguments(call) for call in prepared["tool_calls"]]
    return prepared


def _part_text(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind != "text":
        raise ChatTemplateError(f"a content part of type {kind!r} was given; this model takes parts of type 'text'.")
    if not isinstance(part.get("text"), str):
        raise ChatTemplateError("a content part of type 'text' has no string under 'text'.")
    return str(part["text"])


def _with_arguments(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    return {**call, "function": {**function, "arguments": _arguments(function["arguments"])}}


def _arguments(text: str) -> Arguments | str:
    """A text that is no JSON object stays what it is."""
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return Arguments(values, text or "{}") if isinstance(values, dict) else text
