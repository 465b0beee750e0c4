"""The file of API keys: `name:key` or a key alone on each line. Read once, at the start; its keys are never shown."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pydantic import SecretStr

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
TAKEN_NAME = re.compile(r"key-[0-9]+")  # what the owner of a key without a name is called


def check_key(key: str) -> str:
    """A key as an HTTP header can carry it. The message must not show it."""
    if not (key and key.isascii() and key.isprintable() and " " not in key):
        raise ValueError("a key must be one or more visible ASCII characters, without spaces")
    return key


@dataclass(frozen=True, slots=True)
class NamedKey:
    owner: str | None  # None: nobody has given it a name
    key: SecretStr

    @classmethod
    def read(cls, line: str) -> Self:
        """What stands before the first colon is the name. Raises ValueError, which shows neither."""
        name, colon, key = line.partition(":")
        if not colon:
            return cls(None, SecretStr(check_key(line)))
        if not NAME.fullmatch(name) or TAKEN_NAME.fullmatch(name):
            raise ValueError("a name before a key is up to 64 letters, digits, dots, _ and -, and not key-1, key-2, …")
        return cls(name, SecretStr(check_key(key.strip())))

    def called(self, name: str) -> Self:
        """… unless it has a name."""
        return self if self.owner else replace(self, owner=name)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """Empty lines and those that begin with # do not count. Of one name there may be several keys."""

    path: Path
    keys: tuple[NamedKey, ...]

    @classmethod
    def read(cls, value: object) -> Self:
        path = Path(str(value)).expanduser()
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise ValueError("the file is not UTF-8 text") from error
        except OSError as error:
            raise ValueError(f"the file cannot be read: {error.strerror}") from error
        keys = tuple(NamedKey.read(line) for line in lines if line and not line.startswith("#"))
        if not keys:
            raise ValueError("the file has no key in it; write one key a line")
        return cls(path, keys)
