"""Metadata with their types checked: the keys of a GGUF file under one prefix, and which of them nobody asked for. It
knows no key by name.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model.errors import ModelError


class Keys:
    """Names are without the prefix. Each method raises ModelError for a value of the wrong kind, and for an absent one
    without default."""

    def __init__(self, path: Path, metadata: Mapping[str, Any], prefix: str) -> None:
        self._path = path
        self._prefix = prefix
        self._values = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
        self._asked: set[str] = set()

    def error(self, name: str, problem: str) -> ModelError:
        """The value, cut short, and what is wrong with it."""
        value = self._values.get(name)
        shown = "missing" if value is None else repr(value if not isinstance(value, list) else value[:8])[:80]
        return ModelError(self._path, f"metadata key {self._prefix + name!r} is {shown}; {problem}")

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def integer(self, name: str, default: int | None = None, least: int = 1, most: int | None = None) -> int:
        """A list of equal values, one for each layer, counts as one value."""
        value = self._get(name, default)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]
        if type(value) is not int or value < least or (most is not None and value > most):
            limit = f"at least {least}" if most is None else f"{least} to {most}"
            raise self.error(name, f"a whole number, {limit}, is needed, the same in all layers.")
        return value

    def number(
        self,
        name: str,
        default: float | None = None,
        *,
        above: float = 0.0,
        or_equal: bool = False,
        most: float = sys.float_info.max,
    ) -> float:
        value = self._get(name, default)
        if type(value) not in (int, float) or not (above < value <= most or (or_equal and value == above)):
            least = f"{'of at least' if or_equal else 'above'} {above:g}"
            limit = least if most == sys.float_info.max else f"{least} and at most {most:g}"
            raise self.error(name, f"a finite number {limit} is needed.")
        return float(value)

    def number_within(self, name: str, least: float, most: float) -> float | None:
        """Both bounds are allowed. None where the key is absent."""
        return self.number(name, above=least, or_equal=True, most=most) if name in self else None

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.error(name, "a text is needed.")
        return value

    def _get(self, name: str, default: Any) -> Any:
        self._asked.add(name)
        return self._values.get(name, default)

    def others(self) -> Iterator[tuple[str, Any]]:
        """The keys that nobody asked for, with their values."""
        return ((name, value) for name, value in self._values.items() if name not in self._asked)
