"""Sound files give the library's own values; a header that lies is refused before a value is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model.errors import ModelError
from model.formats.safetensors_file import read_safetensors


def write_raw(path: Path, header: Any, values: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + values)
    return path


def entry(*shape: int, start: int = 0, end: int = 16, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_are_those_of_the_library(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(3, 4, 5).to(dtype), "b.weight": torch.randn(7).to(dtype)}
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})

    read = read_safetensors(tmp_path / "m.safetensors")

    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].shape == tuple(tensor.shape)
        assert read[name].data.shape == (*tensor.shape[:-1], tensor.shape[-1] * dtype.itemsize)
        np.testing.assert_array_equal(read[name].to_float32(), tensor.float().numpy())


def test_values_stay_in_the_file(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4, 4)}, tmp_path / "m.safetensors")
    data = read_safetensors(tmp_path / "m.safetensors")["a"].data
    with (tmp_path / "m.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x07")
    assert data[-1, -1] == 7
    assert not data.flags.writeable


def test_values_that_are_not_aligned_are_read(tmp_path: Path) -> None:
    values = np.arange(4, dtype="<f4")
    header = json.dumps({"a": entry(2, 2)}).encode()
    for padding in range(4):
        path = write_raw(tmp_path / "m.safetensors", header + b" " * padding, values.tobytes())
        np.testing.assert_array_equal(read_safetensors(path)["a"].to_float32(), values.reshape(2, 2))


LIES: dict[str, Callable[[Path], Path]] = {
    "empty file": lambda path: write_raw(path, b"", b"", 0),
    "header longer than the file": lambda path: write_raw(path, {"a": entry(4)}, b"\0" * 16, 10_000),
    "header longer than any file": lambda path: write_raw(path, {"a": entry(4)}, b"\0" * 16, 2**63),
    "header is no JSON": lambda path: write_raw(path, b"{not json at all}", b"\0" * 16),
    "header is a list": lambda path: write_raw(path, [1, 2], b"\0" * 16),
    "offset past the end": lambda path: write_raw(path, {"a": entry(8, end=32)}, b"\0" * 16),
    "values cut short": lambda path: write_raw(path, {"a": entry(4)}, b"\0" * 15),
    "values nobody names": lambda path: write_raw(path, {"a": entry(4)}, b"\0" * 20),
    "overlap": lambda path: write_raw(path, {"a": entry(4), "b": entry(4, start=8, end=24)}, b"\0" * 24),
    "same place twice": lambda path: write_raw(path, {"a": entry(4), "b": entry(4)}, b"\0" * 16),
    "gap": lambda path: write_raw(path, {"a": entry(4), "b": entry(4, start=20, end=36)}, b"\0" * 36),
    "shape larger than its bytes": lambda path: write_raw(path, {"a": entry(5)}, b"\0" * 16),
    "shape that overflows": lambda path: write_raw(path, {"a": entry(2**40, 2**40)}, b"\0" * 16),
    "negative shape": lambda path: write_raw(path, {"a": entry(-4)}, b"\0" * 16),
    "end before start": lambda path: write_raw(path, {"a": entry(4, start=16, end=0)}, b"\0" * 16),
    "no offsets": lambda path: write_raw(path, {"a": {"dtype": "F32", "shape": [4]}}, b"\0" * 16),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused_by_name(lie: str, tmp_path: Path) -> None:
    path = LIES[lie](tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read as safetensors"):
        read_safetensors(path)


@pytest.mark.parametrize("num_bytes", [0, 4, 8, 60])
def test_a_file_cut_short_is_refused(num_bytes: int, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "m.safetensors", {"a": entry(4)}, b"\0" * 16)
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(ModelError, match="cut short"):
        read_safetensors(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.safetensors", tmp_path, tmp_path / "\ud800.safetensors"):
        with pytest.raises(ModelError, match="cannot be read"):
            read_safetensors(path)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.float8_e4m3fn, "F8_E4M3"), (torch.int8, "I8"), (torch.float64, "F64"), (torch.bool, "BOOL")],
)
def test_other_encodings_are_refused_by_tensor_and_name(dtype: torch.dtype, name: str, tmp_path: Path) -> None:
    save_file({"model.norm.weight": torch.zeros(4).to(dtype)}, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match=rf"tensor model\.norm\.weight has the encoding {name}; only F32, F16, BF16"):
        read_safetensors(tmp_path / "m.safetensors")


def test_what_is_to_be_ignored_may_have_any_encoding(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4), "a.buffer": torch.zeros(2).double()}, tmp_path / "m.safetensors")
    assert read_safetensors(tmp_path / "m.safetensors", (".buffer",)).keys() == {"a"}
