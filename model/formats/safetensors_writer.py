"""Tensors as one safetensors file (the layout is in `safetensors_file.py`), written one after the other and each in
slabs of rows: of a model that has to be decoded no more than a slab is in memory. The library's own writer wants all of
them at once.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, quants

from model.errors import ModelError
from model.formats.checkpoint import WeightTensor

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}  # the encodings of such a file
QUANTISED_BECOME = "F16"

_SLAB_VALUES = 1 << 22
_ALIGNMENT = 8  # of the first value in the file
# The largest finite value of each: (2 - 2^-10) 2^15, (2 - 2^-7) 2^127.
_LARGEST = {"F32": math.inf, "F16": 65504.0, "BF16": 3.3895313892515355e38}


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    tensor: WeightTensor
    encoding: str  # in the file

    @property
    def num_bytes(self) -> int:
        return math.prod(self.tensor.shape) * ITEM_BYTES[self.encoding]


def encoding_of(tensor: WeightTensor, asked: str | None) -> str:
    """In a file: `asked`; without it floats are as they were stored, and what is quantised is decoded to float16."""
    return asked or (tensor.encoding if tensor.encoding in ITEM_BYTES else QUANTISED_BECOME)


def write_safetensors(path: Path, weights: Mapping[str, WeightTensor], asked: str | None = None) -> None:
    """Raises ModelError where a value is not finite in another encoding than its own, OSError where `path` cannot be
    written. The widest values come first, so that each tensor is aligned."""
    entries = [_Entry(name, tensor, encoding_of(tensor, asked)) for name, tensor in weights.items()]
    entries.sort(key=lambda entry: (-ITEM_BYTES[entry.encoding], entry.name))
    with path.open("wb") as file:
        file.write(_header(entries))
        for entry in entries:
            for values in _slabs(entry):
                file.write(np.ascontiguousarray(values).data)


def _header(entries: Iterable[_Entry]) -> bytes:
    """`format` is for transformers 4, which refuses a file without it."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        start, end = end, end + entry.num_bytes
        header[entry.name] = {"dtype": entry.encoding, "shape": entry.tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _slabs(entry: _Entry) -> Iterator[np.ndarray]:
    tensor = entry.tensor
    if tensor.encoding == entry.encoding:
        yield tensor.data
    elif len(tensor.shape) == 1:
        yield _encoded(tensor, entry.encoding)
    else:
        num_rows = max(1, _SLAB_VALUES // math.prod(tensor.shape[1:]))
        for first in range(0, tensor.shape[0], num_rows):
            rows = tensor.data[first : first + num_rows]
            yield _encoded(replace(tensor, shape=(len(rows), *tensor.shape[1:]), data=rows), entry.encoding)


def _encoded(tensor: WeightTensor, encoding: str) -> np.ndarray:
    values = tensor.to_float32()
    if np.abs(values).max() > _LARGEST[encoding]:
        raise ModelError(
            tensor.path,
            f"tensor '{tensor.file_name}' has values beyond what {encoding} holds; --dtype float32 has room.",
        )
    encoded: np.ndarray = quants.quantize(values, GGMLQuantizationType[encoding])
    return encoded
