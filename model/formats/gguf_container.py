"""A GGUF file as it lies on disk: metadata, and every tensor as a view of the memory-mapped file. What names and keys
mean is `gguf.py`'s and `gguf_config.py`'s business; not one value of a tensor is looked at here.

Behind the head (`gguf_metadata.py`) comes an entry for each tensor: name, dimensions (fastest first), encoding, offset;
then padding to `general.alignment`, and the tensors.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType

from model.errors import ModelError
from model.formats.checkpoint import WeightTensor
from model.formats.gguf_metadata import Cursor, read_head

# Q5_0 and Q5_1 take the place of K-quants in K-quant files, for tensors whose rows are no multiple of 256 values.
ENCODINGS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
_MAX_DIMENSIONS = 4  # llama.cpp's GGML_MAX_DIMS


@dataclass(frozen=True, slots=True)
class Container:
    """What a GGUF file holds, under the file's own names."""

    path: Path
    metadata: Mapping[str, Any]  # int, float, bool, str, or a list of one of these
    tensors: Mapping[str, WeightTensor]


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    shape: tuple[int, ...]  # fastest last
    encoding: str
    row_bytes: int
    offset: int  # from the start of the tensor data

    @property
    def end(self) -> int:
        return self.offset + math.prod(self.shape[:-1]) * self.row_bytes


def open_container(path: Path) -> Container:
    """Raises ModelError for a file that is not GGUF, is damaged, or has a tensor whose encoding is not in ENCODINGS."""
    cursor = Cursor(path)
    num_tensors, metadata = read_head(cursor)
    alignment = _alignment(path, metadata)
    entries = list(_read_entries(cursor, num_tensors))
    start = math.ceil(cursor.position / alignment) * alignment
    _check_places(path, entries, max(cursor.size - start, 0), alignment)
    content = np.frombuffer(cursor.data, np.uint8)[start:]
    return Container(path, metadata, {entry.name: _tensor(path, content, entry) for entry in entries})


def _alignment(path: Path, metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise ModelError(path, f"metadata key 'general.alignment' is {alignment!r}; it has to be a power of two.")
    return alignment


def _read_entries(cursor: Cursor, num_tensors: int) -> Iterator[_Entry]:
    names: set[str] = set()
    for number in range(1, num_tensors + 1):
        cursor.subject = f"the entry of tensor {number} of {num_tensors}"
        name = cursor.text()
        cursor.subject = f"the entry of tensor {name!r}"
        if name in names:
            raise cursor.error("is there twice.")
        names.add(name)
        yield _read_entry(cursor, name)


def _read_entry(cursor: Cursor, name: str) -> _Entry:
    num_dimensions = cursor.uint32()
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise cursor.error(f"says {num_dimensions} dimensions; 1 to {_MAX_DIMENSIONS} are possible.")
    shape = tuple(cursor.uint64() for _ in range(num_dimensions))[::-1]
    if 0 in shape:
        raise cursor.error(f"says shape {shape}, so that the tensor has no values at all.")
    encoding = _read_encoding(cursor)
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[encoding]]
    if shape[-1] % block:
        raise cursor.error(f"says rows of {shape[-1]} values; in {encoding} they are a multiple of {block}.")
    return _Entry(name, shape, encoding, row_bytes=shape[-1] // block * block_bytes, offset=cursor.uint64())


def _read_encoding(cursor: Cursor) -> str:
    number = cursor.uint32()
    names = {kind.value: kind.name for kind in GGMLQuantizationType}
    name = names.get(number, f"type number {number}")
    if name not in ENCODINGS:
        raise cursor.error(f"says encoding {name}; these can be read: {', '.join(ENCODINGS)}.")
    return name


def _check_places(path: Path, entries: Sequence[_Entry], num_bytes: int, alignment: int) -> None:
    """Every tensor lies within the tensor data of `num_bytes`, aligned, and not on another."""
    end, previous = 0, ""
    for entry in sorted(entries, key=lambda entry: entry.offset):
        if entry.offset < end:
            raise ModelError(path, f"tensor {entry.name!r} overlaps tensor {previous!r}: an offset is wrong.")
        if entry.offset % alignment:
            raise ModelError(path, f"tensor {entry.name!r} has offset {entry.offset}, no multiple of {alignment}.")
        end, previous = entry.end, entry.name
        if end > num_bytes:
            raise ModelError(
                path,
                f"tensor {entry.name!r} reaches to byte {end} of the tensor data, which ends at byte {num_bytes}:"
                " the file was cut short, or its sizes are wrong.",
            )


def _tensor(path: Path, content: np.ndarray, entry: _Entry) -> WeightTensor:
    data = content[entry.offset : entry.end].reshape(*entry.shape[:-1], entry.row_bytes)
    return WeightTensor(entry.shape, entry.encoding, data, path, entry.name)
