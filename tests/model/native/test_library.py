"""The binding against the header, word for word, and against a library where one is built."""

import ctypes
import re
from pathlib import Path

import gguf
import numpy as np
import pytest

from model.native import build
from model.native.library import (
    PROTOTYPES,
    VERSION,
    NativeError,
    NativeLibrary,
    NativeUnavailable,
    columns_of,
    row_bytes,
)
from model.native.options import KEPT
from model.native.structs import (
    STRUCTS,
    ConfigStruct,
    Encoding,
    KVType,
    Role,
    RowError,
)
from tests.model.native.library_here import needs_library
from tests.model.native.test_build import needs_compiler

HEADER = (build.SOURCES / "slotwise.h").read_text()


def without_comments(text: str) -> str:
    return re.sub(r"//.*", "", text)


def fields_in_header(struct: str) -> list[tuple[str, str]]:
    """Name and C type of each field, pointers as "*"."""
    match = re.search(rf"struct {struct} \{{(.*?)\}};", without_comments(HEADER), re.S)
    assert match, struct
    found = []
    for declaration in filter(None, map(str.strip, match[1].split(";"))):
        kind, names = re.fullmatch(r"((?:const )?\w+\*?)\s+(.*)", declaration, re.S).groups()  # type: ignore[union-attr]
        found += [(name.strip(), "*" if "*" in kind else kind) for name in names.split(",")]
    return found


def c_type(kind: type) -> str:
    if issubclass(kind, ctypes.Structure):
        return next(name for name, struct in STRUCTS.items() if struct is kind)
    return {
        ctypes.c_int32: "int32_t",
        ctypes.c_int64: "int64_t",
        ctypes.c_uint64: "uint64_t",
        ctypes.c_double: "double",
        ctypes.c_float: "float",
        ctypes.c_void_p: "*",
    }[kind]  # type: ignore[index]


@pytest.mark.parametrize("struct", STRUCTS)
def test_a_struct_has_the_fields_of_the_header(struct: str) -> None:
    assert [(name, c_type(kind)) for name, kind in STRUCTS[struct]._fields_] == fields_in_header(struct)  # type: ignore[misc]


def test_every_struct_of_the_header_is_there() -> None:
    assert set(re.findall(r"struct (sw_\w+) \{", HEADER)) == STRUCTS.keys()


@pytest.mark.parametrize(
    ("name", "prefix", "members"),
    [
        ("sw_encoding", "SW_", Encoding),
        ("sw_role", "SW_", Role),
        ("sw_kv_type", "SW_KV_", KVType),
        ("sw_row_error", "SW_", RowError),
    ],
)
def test_an_enum_has_the_members_of_the_header(
    name: str, prefix: str, members: type[Encoding | Role | KVType | RowError]
) -> None:
    match = re.search(rf"enum {name} \{{(.*?)\}};", without_comments(HEADER), re.S)
    assert match
    words = [word.partition("=")[0].strip() for word in match[1].split(",")]
    assert [f"{prefix}{member.name}" for member in members] == [word for word in words if word != "SW_NUM_ROLES"]
    assert [member.value for member in members] == list(range(len(members)))


def kind_of(declared: str) -> str:
    """The ctypes name of a C type; of every pointer but that to text, one name."""
    kinds = {"int": "c_int", "int32_t": "c_int", "int64_t": "c_long", "const char*": "c_char_p", "void": "NoneType"}
    return kinds.get(declared.strip(), "c_void_p")


def test_every_function_of_the_header_is_declared_with_its_arguments() -> None:
    declarations = re.findall(r"SW_API ([\w *]+?) ?(sw_\w+)\(([^)]*)\);", without_comments(HEADER))
    assert len(declarations) == HEADER.count("\nSW_API ")
    declared = {}
    for result, name, arguments in declarations:
        types = [re.sub(r"\w+$", "", argument.strip()) for argument in arguments.split(",") if argument]
        declared[name] = [kind_of(result), *map(kind_of, types)]
    ours = {name: [one.__name__ if one else "NoneType" for one in types] for name, types in PROTOTYPES.items()}
    assert ours == declared


def test_the_version_is_that_of_the_header() -> None:
    assert f"SW_VERSION = {VERSION};" in HEADER


@pytest.mark.parametrize(
    ("encoding", "num_bytes"),
    [(Encoding.F32, 256), (Encoding.BF16, 128), (Encoding.Q8, 68), (Encoding.Q4_0, 36), (Encoding.Q4_1, 40)],
)
def test_a_row_has_so_many_bytes(encoding: Encoding, num_bytes: int) -> None:
    assert row_bytes(encoding, 64) == num_bytes
    assert columns_of(encoding, num_bytes) == 64


def test_a_library_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(NativeUnavailable, match="was not built; where there is a C"):
        NativeLibrary.open(tmp_path / "libslotwise.so")


def test_a_file_that_is_no_library_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "libslotwise.so").write_text("text")
    with pytest.raises(NativeUnavailable, match="cannot be loaded: .*libslotwise"):
        NativeLibrary.open(tmp_path / "libslotwise.so")


def make_library(tmp_path: Path, names: list[str]) -> Path:
    """With these functions, all of which return 0."""
    (tmp_path / "all.cpp").write_text(
        "".join(f'extern "C" __attribute__((visibility("default"))) long {name}() {{ return 0; }}\n' for name in names)
    )
    build.build(tmp_path / "x.so", build.find_compiler(), sources=tmp_path)
    return tmp_path / "x.so"


@needs_compiler
def test_a_library_that_lacks_a_function_is_unavailable(tmp_path: Path) -> None:
    path = make_library(tmp_path, [name for name in PROTOTYPES if name != "sw_step"])
    with pytest.raises(NativeUnavailable, match="cannot be loaded: .*sw_step"):
        NativeLibrary.open(path)


@needs_compiler
def test_a_library_of_another_version_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(NativeUnavailable, match=f"of version 0 and {VERSION} is needed"):
        NativeLibrary.open(make_library(tmp_path, list(PROTOTYPES)))


# ── with the real one ──


@needs_library
@pytest.mark.parametrize("struct", STRUCTS)
def test_a_struct_is_as_large_as_in_c(struct: str) -> None:
    assert NativeLibrary.open().sizeof(struct) == ctypes.sizeof(STRUCTS[struct])


@needs_library
def test_an_unknown_struct_has_no_size() -> None:
    assert NativeLibrary.open().sizeof("sw_nothing") == -1


@needs_library
def test_the_scalar_set_is_always_there() -> None:
    assert NativeLibrary.open().instruction_sets()[-1] == "scalar"


@needs_library
def test_a_failure_is_an_exception_with_the_librarys_words() -> None:
    with pytest.raises(NativeError, match=r"\w+"):
        NativeLibrary.open().new_model(ConfigStruct(), "no such set")


@needs_library
@pytest.mark.parametrize("name", ["BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_quantised_values_are_as_near_as_the_encoding_can_be(name: str) -> None:
    encoding = KEPT[name]
    values = np.random.default_rng(1).standard_normal((5, 96)).astype(np.float32)
    out = np.empty((5, row_bytes(encoding, 96)), dtype=np.uint8)
    NativeLibrary.open().quantize(encoding, values, out)
    kind = gguf.GGMLQuantizationType[name]
    reference = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
    ours = gguf.quants.dequantize(out, kind)
    assert np.square(ours - values).mean() <= 1.01 * np.square(reference - values).mean()


@needs_library
def test_what_is_not_an_array_of_the_right_shape_does_not_reach_the_library() -> None:
    library, values = NativeLibrary.open(), np.zeros((2, 64), dtype=np.float32)
    with pytest.raises(AssertionError):
        library.quantize(Encoding.Q8, values, np.empty((2, 67), dtype=np.uint8))
    with pytest.raises(AssertionError):
        library.quantize(Encoding.Q8, values[:, ::2], np.empty((2, 34), dtype=np.uint8))
