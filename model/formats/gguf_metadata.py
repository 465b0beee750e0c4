"""The head of a GGUF file: magic, version, counts, and the metadata as Python values, under the file's own keys. What
the keys mean is not known here.

The layout is llama.cpp's (docs/gguf.md in ggml), versions 2 and 3, little-endian. The `gguf` package has a reader, and
the tests hold this one against it; but that one takes 1.6 s for a vocabulary of 49 000 tokens, and does not notice the
end of the file, so that an array said to have 2**60 elements fills the memory.
"""

import mmap
from collections.abc import Mapping
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np
from gguf import GGUFValueType

from model.errors import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # 3 differs only in allowing big-endian files

# Of one array: many times the tokens and merges of any vocabulary. A file can have zeros for next to nothing, but a
# Python value for each of them takes memory and time.
_MAX_VALUES = 1 << 22

_NUMBERS = {
    GGUFValueType.UINT8: Struct("<B"),
    GGUFValueType.INT8: Struct("<b"),
    GGUFValueType.UINT16: Struct("<H"),
    GGUFValueType.INT16: Struct("<h"),
    GGUFValueType.UINT32: Struct("<I"),
    GGUFValueType.INT32: Struct("<i"),
    GGUFValueType.FLOAT32: Struct("<f"),
    GGUFValueType.BOOL: Struct("<?"),
    GGUFValueType.UINT64: Struct("<Q"),
    GGUFValueType.INT64: Struct("<q"),
    GGUFValueType.FLOAT64: Struct("<d"),
}


class Cursor:
    """Reads values one behind the other from the memory-mapped file, and never past its end."""

    def __init__(self, path: Path) -> None:
        """Raises ModelError for a file that cannot be read or is no GGUF file."""
        self.path = path
        self.data = _map(path)
        self.size = len(self.data)
        self.position = 0
        self.subject = "the header"  # what is being read, for error messages

    def error(self, problem: str) -> ModelError:
        return ModelError(self.path, f"{self.subject} {problem}")

    def advance(self, num_bytes: int) -> int:
        """Moves on, and returns the position before."""
        start = self.position
        if num_bytes > self.size - start:
            raise self.error(
                f"needs {num_bytes} bytes from byte {start} on, but the file ends at byte {self.size}: it was cut"
                " short, or its sizes are wrong."
            )
        self.position = start + num_bytes
        return start

    def number(self, kind: GGUFValueType) -> Any:
        struct = _NUMBERS[kind]
        return struct.unpack_from(self.data, self.advance(struct.size))[0]

    def uint32(self) -> int:
        return int(self.number(GGUFValueType.UINT32))

    def uint64(self) -> int:
        return int(self.number(GGUFValueType.UINT64))

    def numbers(self, kind: GGUFValueType, count: int) -> list[Any]:
        struct = _NUMBERS[kind]
        start = self.advance(struct.size * count)
        values: list[Any] = np.frombuffer(self.data, struct.format, count, start).tolist()
        return values

    def text(self) -> str:
        return self.texts(1)[0]

    def texts(self, count: int) -> list[str]:
        """Texts, each behind its length in 64 bits. No call for a text: vocabularies have hundreds of thousands."""
        data, size, position = self.data, self.size, self.position
        texts = []
        for _ in range(count):
            start = position + 8
            position = start + int.from_bytes(data[position:start], "little")
            if position > size:
                raise self.error(f"has a text at byte {start - 8} that goes past the end of the file, byte {size}.")
            try:
                texts.append(str(data[start:position], "utf-8"))
            except UnicodeDecodeError as error:
                raise self.error(f"has a text at byte {start - 8} that is not UTF-8.") from error
        self.position = position
        return texts


def read_metadata(path: Path) -> Mapping[str, Any]:
    """The file's keys, each with an int, float, bool, str, or a list of one of these. Raises ModelError."""
    return read_head(Cursor(path))[1]


def read_head(cursor: Cursor) -> tuple[int, dict[str, Any]]:
    """The number of tensors, and the metadata; the cursor is then at the entry of the first tensor."""
    cursor.advance(len(MAGIC))
    version = cursor.uint32()
    if version not in VERSIONS:
        hint = " (it is big-endian, and has to be converted)" if version & 0xFFFF == 0 else ""
        raise cursor.error(f"says GGUF version {version}{hint}; versions 2 and 3 can be read.")
    num_tensors, num_keys = cursor.uint64(), cursor.uint64()
    metadata: dict[str, Any] = {}
    for number in range(1, num_keys + 1):
        cursor.subject = f"metadata key {number} of {num_keys}"
        key = cursor.text()
        cursor.subject = f"metadata key {key!r}"
        if key in metadata:
            raise cursor.error("is there twice.")
        metadata[key] = _read_value(cursor)
    return num_tensors, metadata


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ModelError(path, f"this is no GGUF file: it does not begin with the letters {MAGIC.decode()}.")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelError(path, f"the file cannot be read: {error.strerror}.") from error


def _read_value(cursor: Cursor) -> Any:
    kind = _read_type(cursor)
    if kind is GGUFValueType.STRING:
        return cursor.text()
    if kind is not GGUFValueType.ARRAY:
        return cursor.number(kind)
    kind, count = _read_type(cursor), cursor.uint64()
    if kind is GGUFValueType.ARRAY:  # in the layout, but llama.cpp does not read it either
        raise cursor.error("is an array of arrays, which no model needs.")
    if count > _MAX_VALUES:
        raise cursor.error(f"is an array of {count} values; at most {_MAX_VALUES} are read.")
    return cursor.texts(count) if kind is GGUFValueType.STRING else cursor.numbers(kind, count)


def _read_type(cursor: Cursor) -> GGUFValueType:
    number = cursor.uint32()
    try:
        return GGUFValueType(number)
    except ValueError as error:
        raise cursor.error(f"has type number {number}, which GGUF does not know.") from error
