"""A JSON object of a model's folder, read key by key with its types checked.

Every complaint names the file and the key. It knows nothing of what the keys mean.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import ModelError
from model.formats.ordinary_file import read_whole

_MAX = sys.float_info.max  # infinity and NaN are beyond it, and integers that no float holds


@dataclass(frozen=True, slots=True)
class JsonObject:
    """A key whose value is null counts as absent; an absent key gives the default, and is an error without one."""

    path: Path
    values: Mapping[str, Any]
    name: str = ""  # where in the file: "", or "rope_scaling."

    @classmethod
    def read(cls, path: Path) -> "JsonObject":
        try:
            values = json.loads(read_whole(path))
            json.dumps(values, ensure_ascii=False).encode()  # "\ud800", half of a surrogate pair, would break others
        except ModelError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(path, f"cannot be read as JSON: {error}.") from error
        if not isinstance(values, dict):
            raise ModelError(path, f"holds a JSON {type(values).__name__}, not an object.")
        return cls(path, values)

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, least: int = 1, most: int = 2**31 - 1) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(key, f"a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: float | None = None, *, least: float = -_MAX, most: float = _MAX) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            bounds = [f"at least {least}"] * (least > -_MAX) + [f"at most {most}"] * (most < _MAX)
            raise self.wrong(key, ", ".join(["a finite number", *bounds]))
        return float(value)

    def positive(self, key: str, default: float | None = None, *, most: float = _MAX) -> float:
        value = self.number(key, default, least=0, most=most)
        if value == 0:
            raise self.wrong(key, "above zero")
        return value

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers; one alone stands for a list of itself, and no value for the empty list."""
        value = self._get(key, [])
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
            raise self.wrong(key, "a whole number or a list of them")
        return tuple(numbers)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.wrong(key, "a list of strings")
        return tuple(value)

    def child(self, key: str) -> "JsonObject":
        """The object under the key, empty if there is none."""
        value = self._get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return JsonObject(self.path, value, f"{self.name}{key}.")

    def wrong(self, key: str, expected: str) -> ModelError:
        value = json.dumps(self.values[key]) if self.has(key) else "absent"
        return ModelError(self.path, f"{self.name}{key} is {value}; it must be {expected}.")

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None and default is None:
            raise ModelError(self.path, f"the key {self.name}{key} is missing.")
        return default if value is None else value
