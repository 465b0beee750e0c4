"""The head of a GGUF file: what another reader sees in it, and that no damage gets past it or fills the memory."""

import struct
import tracemalloc
from pathlib import Path

import gguf
import pytest

from model.errors import ModelError
from model.formats.gguf_metadata import read_metadata
from tests.model.gguf_files import gguf_writer, save, small_config

UINT8, UINT32, STRING, ARRAY = 0, 4, 8, 9


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def head(*keys: bytes, num_keys: int | None = None, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(keys) if num_keys is None else num_keys) + b"".join(keys)


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def problem(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ModelError) as caught:
        read_metadata(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value.problem


def test_every_kind_of_value_is_read_as_the_gguf_package_reads_it(tmp_path: Path) -> None:
    writer = gguf_writer(small_config())
    for kind, value in [
        ("uint8", 255), ("int8", -128), ("uint16", 65535), ("int16", -32768), ("uint32", 2**32 - 1),
        ("int32", -(2**31)), ("uint64", 2**64 - 1), ("int64", -(2**63)), ("float32", 0.1), ("float64", 0.1),
        ("bool", True), ("string", "Ġ你好 🦙"), ("array", ["", "a", "é\n"]), ("array", [1, -2, 3]),
        ("array", [0.5, 0.25]), ("array", [True, False]),
    ]:  # fmt: skip
        getattr(writer, f"add_{kind}")(f"test.{kind}.{type(value).__name__}.{value!r:.9}", value)
    path = tmp_path / "model.gguf"
    save(writer, path)
    expected = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
    metadata = read_metadata(path)
    assert metadata == {name: value for name, value in expected.items() if not name.startswith("GGUF.")}
    assert [type(value) for value in metadata.values()] == [type(expected[name]) for name in metadata]


def test_version_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(head(key("a", UINT8, b"\x07"), version=2))
    assert read_metadata(path) == {"a": 7}


def test_a_head_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = head(
        key("number", UINT32, b"\x01\x00\x00\x00"),
        key("texts", ARRAY, array(STRING, 2, text("one") + text("two"))),
        key("numbers", ARRAY, array(UINT32, 2, bytes(8))),
    )
    for size in range(len(whole)):
        assert "end" in problem(tmp_path, whole[:size]) or size < 4, size


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "no GGUF file"),
        (b"PK\x03\x04" + bytes(100), "no GGUF file"),
        (head(version=1), "version 1;"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (head(num_keys=2**60), "metadata key 1 of 1152921504606846976"),
        (head(text(b"x" * 9)[:-1]), "goes past the end"),
        (head(struct.pack("<Q", 2**63)), "goes past the end"),
        (head(key("tokens", ARRAY, array(STRING, 2**22))), "'tokens' has a text at byte"),
        (head(key("scores", ARRAY, array(UINT32, 2**22))), "'scores' needs 16777216 bytes"),
        (head(key("tokens", ARRAY, array(STRING, 2**60))), "'tokens' is an array of 1152921504606846976 values; at"),
        (head(key("scores", ARRAY, array(UINT8, 2**22 + 1))), "'scores' is an array of 4194305 values; at most"),
        (head(key("nested", ARRAY, array(ARRAY, 1, array(UINT8, 1, b"\x00")))), "'nested' is an array of arrays"),
        (head(key("odd", 13, bytes(99))), "'odd' has type number 13"),
        (head(key("odd", ARRAY, array(2**31, 1, bytes(99)))), "'odd' has type number 2147483648"),
        (head(key("name", STRING, text(b"\xff\xfe"))), "'name' has a text at byte"),
        (head(key(b"\xc3", UINT8, b"\x00")), "metadata key 1 of 1 has a text"),
        (head(key("twin", UINT8, b"\x00"), key("twin", UINT8, b"\x00")), "'twin' is there twice"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_a_damaged_head_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    assert expected in problem(tmp_path, content)


@pytest.mark.parametrize("name", [".", "absent.gguf"])
def test_what_cannot_be_opened_is_a_model_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_metadata(tmp_path / name)
