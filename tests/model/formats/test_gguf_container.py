"""Tensors of a GGUF file: what another reader sees, views instead of copies, and entries that lie."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from model.errors import ModelError
from model.formats.gguf_container import ENCODINGS, open_container
from tests.model.gguf_files import add_tensor, gguf_writer, save, small_config, write_gguf

SMALL = small_config("qwen3moe", hidden_size=256, intermediate_size=256)


def rewrite_entry(path: Path, name: str, **fields: int) -> None:
    """Overwrites num_dims, dim0 (the fastest), dim1, kind, or offset in the entry of a tensor."""
    content = bytearray(path.read_bytes())
    start = content.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)
    end = start + 4 + 8 * content[start]
    places = {
        "num_dims": ("<I", start),
        "dim0": ("<Q", start + 4),
        "dim1": ("<Q", start + 12),
        "kind": ("<I", end),
        "offset": ("<Q", end + 4),
    }
    for field, value in fields.items():
        form, place = places[field]
        struct.pack_into(form, content, place, value)
    path.write_bytes(content)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tensors_are_those_the_gguf_package_reads(tmp_path: Path, encoding: str) -> None:
    config = small_config(hidden_size=256, intermediate_size=256, head_dim=64)
    path = write_gguf(tmp_path / "model.gguf", config, encoding=encoding)
    tensors = open_container(path).tensors
    expected = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert tensors.keys() == expected.keys()
    assert encoding in {tensor.encoding for tensor in tensors.values()}
    for name, tensor in tensors.items():
        assert tensor.shape == tuple(expected[name].shape.tolist()[::-1])
        assert tensor.encoding == expected[name].tensor_type.name
        assert tensor.data.tobytes() == expected[name].data.tobytes()
        assert tensor.data.shape[:-1] == tensor.shape[:-1]
        assert (tensor.path, tensor.file_name) == (path, name)


def test_tensors_are_read_only_views_of_one_mapping(tmp_path: Path) -> None:
    tensors = open_container(write_gguf(tmp_path / "model.gguf", SMALL)).tensors
    bases = set()
    for tensor in tensors.values():
        assert not tensor.data.flags.writeable
        assert not tensor.data.flags.owndata
        base = tensor.data
        while isinstance(base.base, np.ndarray):
            base = base.base
        bases.add(id(base))
    assert len(bases) == 1


def test_the_alignment_is_the_files_own(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf_writer(SMALL)
    writer.add_custom_alignment(4096)
    save(writer, path)
    expected = gguf.GGUFReader(path).get_tensor(3)
    assert open_container(path).tensors[expected.name].data.tobytes() == expected.data.tobytes()


@pytest.mark.parametrize("alignment", [0, 48, -32, "32", 32.0, True])
def test_an_alignment_that_is_no_power_of_two_is_refused(tmp_path: Path, alignment: object) -> None:
    writer = gguf_writer(SMALL)
    add = {str: writer.add_string, float: writer.add_float32, bool: writer.add_bool, int: writer.add_int32}
    add[type(alignment)]("general.alignment", alignment)
    save(writer, tmp_path / "model.gguf")
    with pytest.raises(ModelError, match=r"'general\.alignment' is .* power of two"):
        open_container(tmp_path / "model.gguf")


NAME = "blk.0.attn_q.weight"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num_dims": 0}, "says 0 dimensions"),
        ({"num_dims": 5}, "says 5 dimensions"),
        ({"num_dims": 2**31}, "says 2147483648 dimensions"),
        ({"dim1": 0}, "no values at all"),
        ({"dim1": 2**62}, "ends at byte"),
        ({"dim0": 2**32, "dim1": 2**32}, "ends at byte"),  # the product is 0 in 64 bits
        ({"offset": 2**63}, "ends at byte"),
        ({"offset": 64}, "overlaps tensor"),
        ({"offset": 7}, "overlaps tensor|no multiple of 32"),
        ({"kind": 20}, "encoding IQ4_NL; these can be read: F32, F16"),
        ({"kind": 28}, "encoding F64;"),
        ({"kind": 4}, "encoding type number 4;"),
        ({"kind": 10**6}, "encoding type number 1000000;"),
        ({"kind": 8, "dim0": 63}, "rows of 63 values; in Q8_0 they are a multiple of 32"),
        ({"kind": 12, "dim0": 128}, "rows of 128 values; in Q4_K they are a multiple of 256"),
    ],
)
def test_an_entry_that_lies_is_named(tmp_path: Path, fields: dict[str, int], expected: str) -> None:
    path = write_gguf(tmp_path / "model.gguf", SMALL)
    rewrite_entry(path, NAME, **fields)
    with pytest.raises(ModelError, match=expected) as caught:
        open_container(path)
    assert NAME in caught.value.problem


def test_an_offset_beside_the_alignment_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", SMALL)
    last = gguf.GGUFReader(path).tensors[-1]
    path.write_bytes(path.read_bytes() + bytes(64))
    rewrite_entry(path, last.name, offset=int(last.field.parts[-1][0]) + 4)
    with pytest.raises(ModelError, match=rf"'{last.name}' has offset \d+, no multiple of 32"):
        open_container(path)


def test_a_second_tensor_of_a_name_is_refused(tmp_path: Path) -> None:
    writer = gguf_writer(SMALL)
    add_tensor(writer, "blk.0.attn_x.weight", np.zeros((4, 32), np.float32), "F32")
    path = tmp_path / "model.gguf"
    save(writer, path)
    path.write_bytes(path.read_bytes().replace(b"blk.0.attn_x.weight", NAME.encode()))
    with pytest.raises(ModelError, match=rf"entry of tensor '{NAME}' is there twice"):
        open_container(path)


def test_data_cut_short_are_noticed_to_the_byte(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", SMALL)
    last = gguf.GGUFReader(path).tensors[-1]
    whole = path.read_bytes()
    path.write_bytes(whole[: last.data_offset + last.n_bytes])
    assert last.name in open_container(path).tensors
    path.write_bytes(whole[: last.data_offset + last.n_bytes - 1])
    with pytest.raises(ModelError, match=f"tensor '{last.name}' .*cut short"):
        open_container(path)
    path.write_bytes(whole[: last.field.offset + 20])
    with pytest.raises(ModelError, match="the entry of tensor .* end of the file"):
        open_container(path)
