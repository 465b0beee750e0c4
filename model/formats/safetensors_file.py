"""One safetensors file as named, memory-mapped tensors.

The layout (huggingface/safetensors, README): 8 bytes, the length of the header, little endian; the header, a JSON
object {name: {dtype, shape, data_offsets}}; the values, row by row. The safetensors library checks a header before we
trust it: offsets that lie within the file, leave no gap, do not overlap and fit the shapes. Values are not read here.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from model.errors import ModelError
from model.formats.checkpoint import WeightTensor
from model.formats.ordinary_file import check_ordinary

_NUM_LENGTH_BYTES = 8
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}  # GGML's names for these encodings are the same

_MOST_AXES = 8


def read_safetensors(path: Path, ignored_suffixes: tuple[str, ...] = ()) -> dict[str, WeightTensor]:
    """Every tensor of the file by its name, but for those whose name ends in one of `ignored_suffixes`. Raises
    ModelError for a file that is cut short, a header that lies, or an encoding that is none of F32, F16, BF16."""
    try:
        check_ordinary(path)
        with safe_open(path, framework="numpy"):
            pass
        values = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    except ModelError:
        raise
    except (OSError, ValueError, SafetensorError) as error:  # ValueError: a path that no file can have
        raise ModelError(path, f"cannot be read as safetensors (cut short or damaged?): {error}.") from error
    values_start = _NUM_LENGTH_BYTES + int.from_bytes(values[:_NUM_LENGTH_BYTES].tobytes(), "little")
    header = _read_header(path, values[_NUM_LENGTH_BYTES:values_start].tobytes())
    header.pop("__metadata__", None)
    wanted = {name: entry for name, entry in header.items() if not name.endswith(ignored_suffixes)}
    return {name: _tensor(path, name, entry, values[values_start:]) for name, entry in wanted.items()}


def _read_header(path: Path, text: bytes) -> dict[str, Any]:
    """The library takes the last of two entries of one name; there should be one."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for number, name in enumerate(names) if name in names[:number])
            raise ModelError(path, f"the header has an entry {twice} twice.")
        return entries

    header: dict[str, Any] = json.loads(text, object_pairs_hook=unique)
    return header


def _tensor(path: Path, name: str, entry: dict[str, Any], values: np.ndarray) -> WeightTensor:
    encoding, shape = entry["dtype"], tuple(entry["shape"])
    if encoding not in _ITEM_BYTES:
        known = ", ".join(_ITEM_BYTES)
        raise ModelError(path, f"tensor {name} has the encoding {encoding}; only {known} can be read.")
    if len(shape) > _MOST_AXES:
        raise ModelError(path, f"tensor {name} has a shape of {len(shape)} axes; at most {_MOST_AXES} can be read.")
    start, end = entry["data_offsets"]
    row_bytes = math.prod(shape[-1:]) * _ITEM_BYTES[encoding]
    rows = values[start:end].reshape(*shape[:-1], row_bytes)
    return WeightTensor(shape=shape, encoding=encoding, data=rows, path=path, file_name=name)
