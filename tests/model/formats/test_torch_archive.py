"""What is noticed in an archive before torch maps it: torch takes a storage's size from the pickle, and its place from
the archive, and would read a neighbour's numbers as its own."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import ModelError
from model.formats.torch_archive import check_archive
from tests.model.minimind_data import GOLDEN, needs_minimind

Entries = list[tuple[str, bytes]]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16]
DTYPES += [torch.int8, torch.uint8, torch.bool, torch.complex64]


def entries_of(state: Any) -> Entries:
    stream = io.BytesIO()
    torch.save(state, stream)
    with zipfile.ZipFile(stream) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def write(path: Path, entries: Entries, packing: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def state() -> dict[str, Any]:
    whole = torch.arange(12.0)
    tensors = {str(dtype): torch.ones(7, dtype=dtype) for dtype in DTYPES}
    return tensors | {"shared": whole, "part": whole[3:6], "step": 5, "parameter": torch.nn.Parameter(torch.ones(2, 3))}


def test_what_torch_saves_is_sound(tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    for number, saved in enumerate((state(), {"model": state(), "optimizer": optimizer.state_dict()})):
        path = tmp_path / f"{number}.pth"
        torch.save(saved, path)
        check_archive(path)


@needs_minimind
def test_what_minimind_saves_is_sound() -> None:
    for path in sorted(GOLDEN.rglob("*.pth")):
        check_archive(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, data: (name, data[:-1]), "storage 0 has to have 28 bytes, but has 27 bytes"),
        (lambda name, data: (name, data + b"\0"), "storage 0 has to have 28 bytes, but has 29 bytes"),
        (lambda name, data: (name + "x", data), "storage 0 has to have 28 bytes, but is not there"),
    ],
)
def test_a_storage_of_another_size_is_refused(
    change: Callable[[str, bytes], tuple[str, bytes]], message: str, tmp_path: Path
) -> None:
    entries = [change(*entry) if entry[0].endswith("data/0") else entry for entry in entries_of(state())]
    with pytest.raises(ModelError, match=rf"m\.pth: is damaged: {message}"):
        check_archive(write(tmp_path / "m.pth", entries))


def test_a_packed_entry_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pth", [("m/data.pkl", bytes(10**7))], zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match=r"m/data\.pkl is packed"):
        check_archive(path)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    entries = entries_of(state())
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = write(tmp_path / "m.pth", [*entries, entries[0]])
    with pytest.raises(ModelError, match=r"data\.pkl is there twice"):
        check_archive(path)


def test_a_pickle_beside_the_one_that_torch_reads_is_refused(tmp_path: Path) -> None:
    entries = entries_of(state())
    folder = entries[0][0].split("/")[0]
    sound = [(name.replace(folder, f"{folder}/sound", 1), data) for name, data in entries]
    path = write(tmp_path / "model.pth", [*sound, *entries])
    with pytest.raises(ModelError, match="several pickles"):
        check_archive(path)


def test_an_enormous_pickle_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pth", [("m/data.pkl", bytes((1 << 26) + 1))])
    with pytest.raises(ModelError, match="its pickle has 67,108,865 bytes"):
        check_archive(path)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("proof",)


def test_nothing_of_a_pickle_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_archive(write(tmp_path / "m.pth", [("m/data.pkl", pickle.dumps({"a": Evil()}, 2))]))
    assert not (tmp_path / "proof").exists()


def test_memory_is_not_set_aside_for_what_a_pickle_says_it_remembers(tmp_path: Path) -> None:
    """`pickle.Unpickler` in C would fill 32 GB with zeros."""
    content = b"\x80\x02}r" + struct.pack("<I", 2**31) + b"."
    check_archive(write(tmp_path / "m.pth", [("m/data.pkl", content)]))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\0" * 100])
def test_what_is_no_archive_is_left_to_torch(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(content)
    check_archive(tmp_path / "m.pth")
