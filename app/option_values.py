"""What the value of an option may be: sizes, lists, texts, keys. Each says what would be right where one is wrong."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from app.key_file import KeyFile, check_key
from model.options import AdapterOption

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")
SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt])i?)?b?", re.IGNORECASE)


def parse_size(text: object) -> object:
    """`4096`, `4k`, `1.5g`, `2GiB` → a whole number; a fraction of one is dropped.

    k, m, g and t are 1024 and its powers, always: in either case, with or without `i`, with or without `B`. So a
    context of 4k is 4096 tokens, and a memory of 2g is what docker and the JVM call 2g. (vLLM's k is 1000, its K 1024.)
    """
    if not isinstance(text, str):
        return text
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("must be a size such as 4096, 512m or 2GiB")
    number, unit = match.groups()
    scale: int = 1024 ** " kmgt".index(unit.lower()) if unit else 1
    return int(float(number) * scale) if "." in number else int(number) * scale


def parse_count(text: object) -> object:
    """A size of something that is not bytes: `4k`, but not `4kB`."""
    if isinstance(text, str) and not (SIZE.fullmatch(text.strip()) and text.strip()[-1] not in "bB"):
        raise ValueError("must be a whole number such as 4096 or 4k")
    return parse_size(text)


def split_list(value: object) -> object:
    """One text or several, each perhaps with several values between commas → all the values."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        return value
    return tuple(item.strip() if isinstance(item, str) else item for text in texts for item in _split(text))


def _split(text: object) -> Sequence[object]:
    return text.split(",") if isinstance(text, str) else (text,)


def check_text(text: str) -> str:
    if not (text and text.isprintable()):
        raise ValueError("must be one line of text, and not empty")
    return text


def check_folder(path: Path) -> Path:
    if not path.is_dir():
        raise ValueError("must be a folder that is there")
    return path


def check_origin(origin: str) -> str:
    if origin != "*" and not ORIGIN.fullmatch(origin):
        raise ValueError("must be an origin such as https://example.org or http://localhost:3000, or * for all")
    return origin


def option(
    group: str, metavar: str, meaning: str, default: Any, *, said: str = "", flag: str = "", **bounds: Any
) -> Any:
    """A field with what its help needs: its heading, its value's stand-in, `said`, a default in words, and `flag`,
    where that is not the field's name."""
    shown: dict[str, Any] = {"group": group, "metavar": metavar, "said": said, "flag": flag}
    return Field(default, description=meaning, json_schema_extra=shown, **bounds)


def word(metavar: str, meaning: str) -> Any:
    """A field that is not an option: it is always given, on the command line."""
    return Field(description=meaning, json_schema_extra={"group": "Words", "metavar": metavar, "said": "", "flag": ""})


def parse_adapter(text: object) -> object:
    """`name=path` → both."""
    if not isinstance(text, str):
        return text
    name, sign, path = (part.strip() for part in text.partition("="))
    if not (sign and name and path and text.isprintable()):
        raise ValueError("must be NAME=PATH, such as poet=out/lora_poet_768.pth")
    return AdapterOption(name, path)


Text = Annotated[str, AfterValidator(check_text)]
Folder = Annotated[Path, AfterValidator(check_folder)]
Count = Annotated[int, BeforeValidator(parse_count)]
Size = Annotated[int, BeforeValidator(parse_size)]
Names = Annotated[tuple[Text, ...], NoDecode, BeforeValidator(split_list)]
Key = Annotated[SecretStr, BeforeValidator(check_key)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(check_origin)], ...], NoDecode, BeforeValidator(split_list)]
Keys = Annotated[tuple[Key, ...], NoDecode, BeforeValidator(split_list)]
Adapters = Annotated[
    tuple[Annotated[AdapterOption, BeforeValidator(parse_adapter)], ...], NoDecode, BeforeValidator(split_list)
]
ReadKeyFile = Annotated[Annotated[KeyFile, BeforeValidator(KeyFile.read)] | None, NoDecode]
