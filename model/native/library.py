"""The shared library as Python calls it: every function of `src/slotwise.h` with its types, and failures as exceptions.

Models and runners are addresses here; who owns them is `runner.py`'s business. The interpreter is free during a call.
"""

import ctypes
import sys
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from model.native.structs import (
    STRUCTS,
    BatchStruct,
    Checks,
    ConfigStruct,
    Encoding,
    KVType,
    Place,
    ResultStruct,
    RunnerOptionsStruct,
    ViolationStruct,
)

LIBRARY = Path(__file__).parent / ("libslotwise.dylib" if sys.platform == "darwin" else "libslotwise.so")
VERSION = 5  # SW_VERSION of slotwise.h
MAX_PARTS = 64  # of a profile

# Name → result, arguments. A struct is given by reference.
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "sw_version": (c_int32,),
    "sw_sizeof": (c_int64, c_char_p),
    "sw_error": (c_char_p,),
    "sw_instruction_sets": (c_char_p,),
    "sw_model_new": (c_void_p, c_void_p, c_char_p),
    "sw_model_free": (None, c_void_p),
    "sw_model_set": (c_int, c_void_p, c_int, c_int, c_int, c_int, c_int32, c_int32, c_void_p, c_int64),
    "sw_model_set_bias": (c_int, c_void_p, c_int, c_int, c_int, c_int32, c_void_p),
    "sw_model_set_adapter": (c_int, c_void_p, *(c_int,) * 3, *(c_int32,) * 3, c_void_p, c_void_p),
    "sw_quantize": (c_int, c_int, c_int64, c_int32, c_void_p, c_void_p, c_int64),
    "sw_model_bytes": (c_int64, c_void_p),
    "sw_block_bytes": (c_int64, c_void_p, c_int, c_int),
    "sw_runner_new": (c_void_p, c_void_p, c_void_p),
    "sw_runner_free": (None, c_void_p),
    "sw_step": (c_int, c_void_p, c_void_p, c_void_p, c_void_p),
    "sw_violations": (c_int, c_void_p, c_void_p, c_int),
    "sw_misplace": (c_int, c_void_p, c_int32, c_int32, c_int32),
    "sw_block": (c_void_p, c_void_p, c_int32),
    "sw_profile": (c_int, c_void_p, c_void_p, c_void_p, c_int),
}


class NativeUnavailable(Exception):
    """The native backend cannot do what is asked, here; the torch backend may. The message is a reason, to stand behind
    a colon."""


class NativeError(RuntimeError):
    """A call that failed, in the words of the library."""


class NativeLibrary:
    def __init__(self, functions: ctypes.CDLL) -> None:
        self._functions: dict[str, Callable[..., Any]] = {}
        for name, (result, *arguments) in PROTOTYPES.items():
            function = getattr(functions, name)
            function.restype, function.argtypes = result, arguments
            self._functions[name] = function

    @classmethod
    def open(cls, path: Path = LIBRARY) -> "NativeLibrary":
        """Raises NativeUnavailable where there is none, or one that is not for this Python code or this machine."""
        if not path.is_file():
            raise NativeUnavailable("its library was not built; where there is a C++ compiler, `pip install` builds it")
        try:
            library = cls(ctypes.CDLL(str(path)))
        except (OSError, AttributeError) as error:
            raise NativeUnavailable(f"its library cannot be loaded: {error}") from error
        library._check_version()
        return library

    def _check_version(self) -> None:
        version = self._functions["sw_version"]()
        sizes = {name: (self.sizeof(name), ctypes.sizeof(struct)) for name, struct in STRUCTS.items()}
        if version != VERSION or any(there != here for there, here in sizes.values()):
            raise NativeUnavailable(
                f"its library is of version {version} and {VERSION} is needed; `python model/native/build.py` makes it"
            )

    def sizeof(self, struct_name: str) -> int:
        """Of a C struct, as the library has it."""
        return int(self._functions["sw_sizeof"](struct_name.encode()))

    def instruction_sets(self) -> tuple[str, ...]:
        """Those that this processor can run, best first."""
        names: bytes = self._functions["sw_instruction_sets"]()
        return tuple(names.decode().split())

    def new_model(self, config: ConfigStruct, isa: str | None = None) -> int:
        return self._pointer("sw_model_new", ctypes.byref(config), isa.encode() if isa else None)

    def free_model(self, model: int) -> None:
        self._functions["sw_model_free"](model)

    def set_matrix(self, model: int, place: Place, encoding: Encoding, matrix: np.ndarray) -> None:
        """`matrix`: uint8 [N, bytes of a row], in GGML's layout of the encoding."""
        assert matrix.flags.c_contiguous and matrix.dtype == np.uint8 and matrix.ndim == 2, (matrix.shape, matrix.dtype)
        shape = len(matrix), columns_of(encoding, matrix.shape[1])
        where = place.role, place.layer, place.expert
        self._check("sw_model_set", model, *where, encoding, *shape, matrix.ctypes.data, matrix.nbytes)

    def set_bias(self, model: int, place: Place, bias: np.ndarray) -> None:
        assert bias.flags.c_contiguous and bias.dtype == np.float32 and bias.ndim == 1, (bias.shape, bias.dtype)
        where = place.role, place.layer, place.expert
        self._check("sw_model_set_bias", model, *where, len(bias), bias.ctypes.data)

    def set_adapter(self, model: int, number: int, place: Place, a: np.ndarray, b: np.ndarray) -> None:
        """Of the adapter of that number, from 1 on: a float32 [r, K], b float32 [N, r] beside a matrix [N, K]."""
        for matrix in (a, b):
            assert matrix.flags.c_contiguous and matrix.dtype == np.float32 and matrix.ndim == 2, matrix.shape
        assert a.shape[0] == b.shape[1], (a.shape, b.shape)
        sizes = len(a), len(b), a.shape[1]
        self._check(
            "sw_model_set_adapter", model, number, place.role, place.layer, *sizes, a.ctypes.data, b.ctypes.data
        )

    def quantize(self, encoding: Encoding, values: np.ndarray, out: np.ndarray) -> None:
        """values: float32 [N, K]; out: uint8 [N, bytes of a row]."""
        assert values.flags.c_contiguous and values.dtype == np.float32 and values.ndim == 2, values.shape
        assert out.flags.c_contiguous and out.shape == (len(values), row_bytes(encoding, values.shape[1])), out.shape
        self._check("sw_quantize", encoding, *values.shape, values.ctypes.data, out.ctypes.data, out.nbytes)

    def model_bytes(self, model: int) -> int:
        """Raises NativeError, naming it, where a tensor has not been set."""
        return self._check("sw_model_bytes", model)

    def block_bytes(self, model: int, kv_type: KVType, checks: Checks) -> int:
        return self._check("sw_block_bytes", model, kv_type, checks)

    def new_runner(self, model: int, options: RunnerOptionsStruct) -> int:
        return self._pointer("sw_runner_new", model, ctypes.byref(options))

    def free_runner(self, runner: int) -> None:
        self._functions["sw_runner_free"](runner)

    def step(
        self, runner: int, batch: BatchStruct, results: "ctypes.Array[ResultStruct] | None", logits: np.ndarray | None
    ) -> None:
        out = None if logits is None else logits.ctypes.data
        self._check("sw_step", runner, ctypes.byref(batch), results, out)

    def violations(self, runner: int) -> list[ViolationStruct]:
        """What the checks of the last step found."""
        num = self._check("sw_violations", runner, None, 0)
        if num == 0:
            return []
        found = (ViolationStruct * num)()
        self._check("sw_violations", runner, found, num)
        return list(found)

    def misplace(self, runner: int, slot: int, index: int, block_id: int) -> None:
        self._check("sw_misplace", runner, slot, index, block_id)

    def block(self, runner: int, block_id: int, num_bytes: int) -> np.ndarray:
        """The bytes of a block, a view of memory that is the runner's; for checks."""
        address = self._pointer("sw_block", runner, block_id)
        return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(address))

    def profile(self, runner: int) -> dict[str, int]:
        """Nanoseconds that each part of the steps so far has taken."""
        names, times = (c_char_p * MAX_PARTS)(), (c_int64 * MAX_PARTS)()
        num = self._check("sw_profile", runner, names, times, MAX_PARTS)
        return {(names[i] or b"").decode(): times[i] for i in range(num)}

    def _check(self, name: str, *arguments: object) -> int:
        result: int = self._functions[name](*arguments)
        if result < 0:
            raise NativeError(self._error())
        return result

    def _pointer(self, name: str, *arguments: object) -> int:
        address: int | None = self._functions[name](*arguments)
        if address is None:
            raise NativeError(self._error())
        return address

    def _error(self) -> str:
        message: bytes = self._functions["sw_error"]()
        return message.decode(errors="replace")


BLOCK_BYTES = {Encoding.Q8: 34, Encoding.Q4_0: 18, Encoding.Q4_1: 20}  # of 32 weights
NUMBER_BYTES = {Encoding.F32: 4, Encoding.BF16: 2}


def row_bytes(encoding: Encoding, columns: int) -> int:
    if encoding in NUMBER_BYTES:
        return columns * NUMBER_BYTES[encoding]
    assert columns % 32 == 0, columns
    return columns // 32 * BLOCK_BYTES[encoding]


def columns_of(encoding: Encoding, num_bytes: int) -> int:
    """Of a row of so many bytes."""
    if encoding in NUMBER_BYTES:
        return num_bytes // NUMBER_BYTES[encoding]
    return num_bytes // BLOCK_BYTES[encoding] * 32
