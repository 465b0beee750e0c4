"""The sampling kernels of one instruction set, through the small ABI of `src/testing_sampling.cpp`; whatever a kernel
writes lies before guards, which are looked at after each call."""

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_uint8, c_uint64
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.batch import NO_CHOICE, NOT_FINITE, ChunkResult, SamplingParams
from model.native.structs import BiasStruct
from model.torch_backend.penalties import TokenCounts
from tests.model.native.kernel_library import library

ERRORS = (None, NOT_FINITE, NO_CHOICE)
Floats = NDArray[np.float32]


class Biases(ctypes.Structure):
    """`Biases` of kernels.h."""

    _fields_ = (("first", POINTER(BiasStruct)), ("num", c_int32))


class Work(ctypes.Structure):
    """`SamplingWork` of kernels.h."""

    _fields_ = (
        ("logits", POINTER(c_float)),
        ("weights", POINTER(c_float)),
        ("vocab_size", c_int32),
        *((name, c_float) for name in ("temperature", "top_p", "min_p")),
        *((f"{name}_penalty", c_float) for name in ("repetition", "presence", "frequency")),
        ("top_k", c_int32),
        ("num_logprobs", c_int32),
        *((name, c_double) for name in ("typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold")),
        ("seed", c_uint64),
        ("position", c_uint64),
        ("suppressed", POINTER(c_int32)),
        ("num_suppressed", c_int32),
        ("num_allowed", c_int32),
        ("allowed", POINTER(c_uint8)),
        ("biases", Biases * 2),
        ("seen", POINTER(c_int32)),
        ("num_output", POINTER(c_int32)),
        ("num_seen", c_int32),
    )


class Sampled(ctypes.Structure):
    """`Sampled` of kernels.h."""

    _fields_ = (
        ("token_id", c_int32),
        ("error", c_int32),
        ("logprob", c_float),
        ("num_top", c_int32),
        ("top_ids", POINTER(c_int32)),
        ("top_logprobs", POINTER(c_float)),
    )


def floats(values: Floats) -> "ctypes._Pointer[c_float]":
    return values.ctypes.data_as(POINTER(c_float))


def ints(values: NDArray[np.int32]) -> "ctypes._Pointer[c_int32]":
    return values.ctypes.data_as(POINTER(c_int32))


def biases_of(pairs: Sequence[tuple[int, float]]) -> Biases:
    return Biases((BiasStruct * len(pairs))(*pairs), len(pairs))


@dataclass(frozen=True)
class Case:
    """A row, and what its slot has seen: ids of prompt and output in the order of their first appearance."""

    logits: Floats
    params: SamplingParams
    position: int = 0
    prompt: tuple[int, ...] = ()
    output: tuple[int, ...] = ()
    allowed: bytes | None = None
    biases: tuple[tuple[int, float], ...] = ()

    @property
    def counts(self) -> TokenCounts:
        counts = TokenCounts(len(self.prompt))
        counts.extend(self.prompt + self.output)
        return counts

    @property
    def suppressed(self) -> tuple[int, ...]:
        return self.params.suppressed_token_ids if len(self.output) < self.params.min_tokens else ()


def sample(isa: str, case: Case) -> ChunkResult:
    params, counts = case.params, case.counts
    logits = np.ascontiguousarray(case.logits, dtype=np.float32)
    vocab_size, num_logprobs = len(logits), -1 if params.num_logprobs is None else params.num_logprobs
    weights = np.full(vocab_size + 64, 7, dtype=np.float32)
    suppressed = np.array(case.suppressed, dtype=np.int32)
    seen, num_output = counts.token_ids.astype(np.int32), counts.num_output.astype(np.int32)
    allowed = None if case.allowed is None else (c_uint8 * len(case.allowed))(*case.allowed)
    work = Work(
        floats(logits), floats(weights), vocab_size,
        params.temperature, params.top_p, params.min_p,
        params.repetition_penalty, params.presence_penalty, params.frequency_penalty,
        params.top_k, num_logprobs,
        params.typical_p, params.top_n_sigma, params.xtc_probability, params.xtc_threshold,
        params.seed, case.position,
        ints(suppressed), len(suppressed), len(case.allowed or b""), allowed,
        (Biases * 2)(biases_of(params.logit_bias), biases_of(case.biases)),
        ints(seen), ints(num_output), len(seen),
    )  # fmt: skip
    result = call("sample", isa, work)
    assert (weights[vocab_size:] == 7).all()
    return result


def report(isa: str, logits: Floats, token_id: int, num_top: int) -> ChunkResult:
    """As if the token had been chosen."""
    weights = np.full(len(logits) + 64, 7, dtype=np.float32)
    work = Work(logits=floats(logits), weights=floats(weights), vocab_size=len(logits), num_logprobs=num_top)
    result = call("report", isa, work, token_id)
    assert (weights[len(logits) :] == 7).all()
    return result


def call(name: str, isa: str, work: Work, token_id: int = -1) -> ChunkResult:
    before = ctypes.string_at(work.logits, 4 * work.vocab_size)
    size = max(work.num_logprobs, 0) + 1
    top_ids, top_logprobs = np.full(size, 7, np.int32), np.full(size, 7, np.float32)
    result = Sampled(token_id=token_id, top_ids=ints(top_ids), top_logprobs=floats(top_logprobs))
    kernel = getattr(library(), f"sw_test_{name}")
    assert kernel(c_char_p(isa.encode()), ctypes.byref(work), ctypes.byref(result)) == 0
    assert ctypes.string_at(work.logits, 4 * work.vocab_size) == before
    assert (top_ids[-1], top_logprobs[-1]) == (7, 7)
    if result.error:
        assert (result.token_id, result.num_top) == (token_id, 0)
        return ChunkResult(error=ERRORS[result.error])
    pairs = zip(top_ids[: result.num_top].tolist(), top_logprobs[: result.num_top].tolist(), strict=True)
    return ChunkResult(result.token_id, None if work.num_logprobs < 0 else result.logprob, tuple(pairs))
