"""The row and attention kernels of one instruction set on numpy arrays, through the small ABI of `src/testing.cpp`.

Whatever a kernel writes lies between guards, which are looked at after each call; what it may not read, only a library
built with AddressSanitizer sees (SLOTWISE_TEST_LIBRARY names another library than the checkout's own).
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_char_p, c_float, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.native.library import LIBRARY
from model.native.structs import KVType

BLOCK = 32  # token positions in a block
GUARD = 2**14  # bytes on each side: what tiles write, a sanitizer does not see
Floats = NDArray[np.float32]
Array = NDArray[Any]

PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "sw_test_rms_norm": (c_char_p, c_void_p, c_void_p, c_float, c_int, c_void_p),
    "sw_test_quantize": (c_char_p, c_void_p, c_int, c_void_p, c_void_p, c_void_p),
    "sw_test_to_bf16": (c_char_p, c_void_p, c_int, c_void_p),
    "sw_test_silu_mul": (c_char_p, c_void_p, c_void_p, c_int, c_void_p),
    "sw_test_shrink": (c_char_p, c_void_p, c_int, c_int, c_void_p, c_void_p),
    "sw_test_expand": (c_char_p, c_void_p, c_int64, c_int, c_void_p, c_int, c_void_p),
    "sw_test_rotate": (c_char_p, c_void_p, c_void_p, c_void_p, c_int),
    "sw_test_write_kv": (c_char_p, c_int, c_int, c_void_p, c_void_p, c_int, c_void_p),
    "sw_test_attend": (c_char_p, c_void_p),
    "sw_test_attention_scratch": (c_int, c_int, c_int, c_int),
    "sw_test_kv_part_bytes": (c_int, c_int),
}
SIZES = ("sw_test_attention_scratch", "sw_test_kv_part_bytes")


class Work(ctypes.Structure):
    """`AttentionWork` of kernels.h."""

    _fields_ = (
        *((name, c_int32) for name in ("kv_type", "head_dim", "group_heads", "num_tokens", "first_position")),
        ("q", c_void_p),
        ("q_stride", c_int64),
        ("out", c_void_p),
        ("out_stride", c_int64),
        ("blocks", c_void_p),
        ("scale", c_float),
        ("scratch", c_void_p),
    )


def library_path() -> Path:
    return Path(os.environ.get("SLOTWISE_TEST_LIBRARY", LIBRARY))


@cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library_path()))
    loaded.sw_instruction_sets.restype = c_char_p
    for name, arguments in PROTOTYPES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, c_int64 if name in SIZES else c_int
    return loaded


def instruction_sets() -> list[str]:
    """Of this library and processor, best first; none where there is no library."""
    return library().sw_instruction_sets().decode().split() if library_path().exists() else []


@contextmanager
def guarded(*arrays: Array) -> Iterator[list[Array]]:
    """Copies of the arrays to be written to; afterwards nothing around them may have changed."""
    buffers = [np.full(GUARD + array.nbytes + GUARD, 0xA5, np.uint8) for array in arrays]
    inner = [
        buffer[GUARD : GUARD + array.nbytes].view(array.dtype).reshape(array.shape)
        for buffer, array in zip(buffers, arrays, strict=True)
    ]
    for target, array in zip(inner, arrays, strict=True):
        target[...] = array
    yield inner
    for buffer in buffers:
        assert (buffer[:GUARD] == 0xA5).all()
        assert (buffer[-GUARD:] == 0xA5).all()


def floats(values: Array) -> Floats:
    """In memory of its own, with nothing readable behind it as far as a sanitizer can tell."""
    return np.array(values, np.float32, order="C")


class KVCache:
    """Blocks of one slot, layer and kv head, scattered in memory; what was not written is NaN."""

    def __init__(self, kv_type: KVType, head_dim: int, num_positions: int, seed: int = 0) -> None:
        self.kv_type, self.head_dim = kv_type, head_dim
        num_blocks = -(-num_positions // BLOCK)
        part_bytes = library().sw_test_kv_part_bytes(kv_type, head_dim)
        self.memory = np.full((num_blocks + 1, part_bytes), 0xFF, np.uint8)
        self.order = np.random.default_rng(seed).permutation(num_blocks + 1)[:num_blocks]

    def addresses(self, memory: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """Of the slot's blocks, where the parts are in that memory."""
        start, step = memory.ctypes.data, memory.strides[0]
        return np.array([start + step * place for place in self.order], np.uint64)

    def part(self, position: int) -> NDArray[np.uint8]:
        return self.memory[self.order[position // BLOCK]]

    def read(self, num_positions: int) -> tuple[Floats, Floats]:
        """Keys and values [P, D] as the layout has them."""
        keys, values = zip(*(self._read_block(self.memory[place]) for place in self.order), strict=True)
        return np.concatenate(keys)[:num_positions], np.concatenate(values)[:num_positions]

    def _read_block(self, part: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        size = BLOCK * self.head_dim
        scales = np.ones((2, BLOCK), np.float32)
        if self.kv_type == KVType.F32:
            elements = part.view(np.float32)
        elif self.kv_type == KVType.BF16:
            elements = (part.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            elements = part[: 2 * size].view(np.int8).astype(np.float32)
            scales = part[2 * size :].view(np.float32).reshape(2, BLOCK)
        keys, values = elements[:size].reshape(-1, BLOCK).T, elements[size:].reshape(BLOCK, -1)
        return keys * scales[0][:, None], values * scales[1][:, None]


def pair_up(parts: NDArray[np.uint8], head_dim: int) -> NDArray[np.uint8]:
    """Parts [N, bytes] of bfloat16 as the tiles of `amx` want them: keys [D][32] → [D/2][32][2], values [32][D] →
    [16][D][2]."""
    elements = parts.view(np.uint16).reshape(len(parts), 2, -1)
    keys = elements[:, 0].reshape(-1, head_dim // 2, 2, BLOCK).swapaxes(2, 3)
    values = elements[:, 1].reshape(-1, BLOCK // 2, 2, head_dim).swapaxes(2, 3)
    return np.concatenate([rows.reshape(len(parts), -1) for rows in (keys, values)], axis=1).view(np.uint8)


def take_apart(parts: NDArray[np.uint8], head_dim: int) -> NDArray[np.uint8]:
    """What `pair_up` was given."""
    places = np.arange(parts.shape[1] // 2, dtype=np.uint16).view(np.uint8)[None]
    apart = np.empty_like(parts)
    apart.view(np.uint16)[:, pair_up(places, head_dim).view(np.uint16)[0]] = parts.view(np.uint16)
    return apart


@dataclass(frozen=True)
class RowKernels:
    isa: str

    def has_pairs(self, cache: KVCache) -> bool:
        """Whether these kernels have the layout of `pair_up`. A cache is in the common one, and is changed for them."""
        return self.isa == "amx" and cache.kv_type == KVType.BF16 and cache.head_dim % 32 == 0

    def call(self, name: str, *arguments: Any) -> None:
        given = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments]
        assert getattr(library(), f"sw_test_{name}")(self.isa.encode(), *given) == 0

    def rms_norm(self, x: Floats, weight: Floats, eps: float = 1e-5) -> Floats:
        with guarded(np.zeros_like(x)) as (out,):
            self.call("rms_norm", floats(x), floats(weight), eps, x.size, out)
        return out

    def quantize(self, x: Floats) -> tuple[NDArray[np.int8], Floats, NDArray[np.int32]]:
        groups = x.size // 32
        with guarded(np.zeros(x.size, np.int8), np.zeros(groups, np.float32), np.zeros(groups, np.int32)) as outs:
            self.call("quantize", floats(x), x.size, *outs)
        return outs[0], outs[1], outs[2]

    def to_bf16(self, x: Floats) -> NDArray[np.uint16]:
        with guarded(np.zeros(x.size, np.uint16)) as (out,):
            self.call("to_bf16", floats(x), x.size, out)
        return out

    def silu_mul(self, gate: Floats, up: Floats) -> Floats:
        with guarded(np.zeros_like(gate)) as (out,):
            self.call("silu_mul", floats(gate), floats(up), gate.size, out)
        return out

    def shrink(self, a: Floats, x: Floats) -> Floats:
        with guarded(np.zeros(len(a), np.float32)) as (sums,):
            self.call("shrink", floats(a), *a.shape, floats(x), sums)
        return sums

    def expand(self, b: Floats, sums: Floats, first: int, out: Floats) -> Floats:
        """b [R, N]: as many of its columns as `out` has, from `first` on."""
        own = floats(b)
        with guarded(out) as (added,):
            self.call("expand", own.ctypes.data + 4 * first, b.shape[1], len(b), floats(sums), out.size, added)
        return added

    def rotate(self, x: Floats, cosine: Floats, sine: Floats) -> Floats:
        with guarded(x) as (out,):
            self.call("rotate", out, floats(cosine), floats(sine), x.size)
        return out

    def write_kv(self, cache: KVCache, position: int, key: Floats, value: Floats) -> None:
        part = cache.part(position)
        if self.has_pairs(cache):
            part = pair_up(part[None], cache.head_dim)[0]
        with guarded(part) as (written,):
            offset = position % BLOCK
            self.call("write_kv", cache.kv_type, cache.head_dim, floats(key), floats(value), offset, written)
        if self.has_pairs(cache):
            written = take_apart(written[None], cache.head_dim)[0]
        cache.part(position)[:] = written

    def fill(self, cache: KVCache, keys: Floats, values: Floats) -> KVCache:
        for position, (key, value) in enumerate(zip(keys, values, strict=True)):
            self.write_kv(cache, position, key, value)
        return cache

    def attend(self, cache: KVCache, queries: Floats, first_position: int) -> Floats:
        """Of queries [T, G, D]; rows lie apart from each other, as those of a kv head among others do."""
        num_tokens, group_heads, head_dim = queries.shape
        gap = 3
        q = np.full((num_tokens, group_heads * head_dim + gap), np.nan, np.float32)
        q[:, :-gap] = queries.reshape(num_tokens, -1)
        last_position = first_position + num_tokens
        size = library().sw_test_attention_scratch(num_tokens, group_heads, head_dim, last_position)
        memory = pair_up(cache.memory, head_dim) if self.has_pairs(cache) else cache.memory
        blocks = cache.addresses(memory)[: -(-last_position // BLOCK)].copy()
        with guarded(np.full_like(q, 7), np.full(size, np.nan, np.float32)) as (out, scratch):
            work = Work(
                *(cache.kv_type, head_dim, group_heads, num_tokens, first_position),
                *(q.ctypes.data, q.shape[1], out.ctypes.data, q.shape[1]),
                *(blocks.ctypes.data, head_dim**-0.5, scratch.ctypes.data),
            )
            self.call("attend", ctypes.byref(work))
        assert (out[:, -gap:] == 7).all()
        return out[:, :-gap].reshape(queries.shape).copy()


def same_bits(left: Array, right: Array) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def by_chunks(kernels: RowKernels, cache: KVCache, queries: Floats, first: int, sizes: Sequence[int]) -> Floats:
    """The same queries in chunks of these sizes, the last as often as needed."""
    outs, start, remaining = [], 0, list(sizes)
    while start < len(queries):
        size = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        outs.append(kernels.attend(cache, queries[start : start + size], first + start))
        start += size
    return np.concatenate(outs)
