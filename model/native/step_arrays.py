"""A `Batch` as the C structs of one step, and its results as the engine reads them. Nothing here is kept for the next
step; what a slot wants beside tokens comes with the call."""

import ctypes
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.batch import (
    NO_CHOICE,
    NOT_FINITE,
    NOT_ISOLATED,
    Batch,
    Chunk,
    ChunkResult,
    FreedSlot,
    GrownSlot,
    OpenedSlot,
    SamplingParams,
    TargetLogprob,
)
from model.isolation import Breach, Stamp, Violation
from model.native.structs import (
    BatchStruct,
    BiasStruct,
    BlocksStruct,
    ChunkStruct,
    OpenedStruct,
    ResultStruct,
    RowError,
    SamplingStruct,
    StampStruct,
    ViolationStruct,
)

ERRORS = {RowError.NOT_FINITE: NOT_FINITE, RowError.NO_CHOICE: NO_CHOICE, RowError.NOT_ISOLATED: NOT_ISOLATED}
BREACHES = (Breach.OTHER_STAMP, Breach.NOT_CLEAR, Breach.NOT_DESTROYED, Breach.CHANGED)  # sw_violation_kind
NO_TOKEN = ChunkResult()


@dataclass(slots=True)
class BatchArrays:
    """The struct to pass, and what its pointers point to: both must live until the call is over."""

    struct: BatchStruct
    kept: list[object]

    @classmethod
    def of(cls, batch: Batch) -> "BatchArrays":
        arrays = cls(BatchStruct(), [])
        struct = arrays.struct
        struct.num_freed, struct.freed = arrays._blocks(batch.freed)
        struct.num_opened, struct.opened = arrays._keep(OpenedStruct, [arrays._opened(one) for one in batch.opened])
        struct.num_grown, struct.grown = arrays._blocks(batch.grown)
        struct.num_chunks, struct.chunks = arrays._keep(ChunkStruct, [arrays._chunk(one) for one in batch.chunks])
        return arrays

    def _keep(self, struct: type[ctypes.Structure], rows: Sequence[Any]) -> tuple[int, int | None]:
        """rows: the fields of each struct, as tuples → how many there are, and the address of an array of them."""
        if not rows:
            return 0, None
        structs = (struct * len(rows))(*rows)
        self.kept.append(structs)
        return len(rows), ctypes.addressof(structs)

    def _blocks(self, slots: Sequence[FreedSlot | GrownSlot]) -> tuple[int, int | None]:
        rows = [(one.slot, len(one.block_ids), self._numbers(one.block_ids)) for one in slots]
        return self._keep(BlocksStruct, rows)

    def _opened(self, opened: OpenedSlot) -> tuple[object, ...]:
        sampling = self._sampling(opened.sampling)
        return opened.slot, opened.num_prompt_tokens, opened.pools, opened.adapter, opened.generation, sampling

    def _sampling(self, params: SamplingParams) -> SamplingStruct:
        return SamplingStruct(
            seed=params.seed,
            typical_p=params.typical_p,
            top_n_sigma=params.top_n_sigma,
            xtc_probability=params.xtc_probability,
            xtc_threshold=params.xtc_threshold,
            temperature=params.temperature,
            top_p=params.top_p,
            min_p=params.min_p,
            repetition_penalty=params.repetition_penalty,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            top_k=params.top_k,
            num_logprobs=-1 if params.num_logprobs is None else params.num_logprobs,
            num_prompt_logprobs=params.num_prompt_logprobs,
            min_tokens=params.min_tokens,
            num_suppressed=len(params.suppressed_token_ids),
            num_biases=len(params.logit_bias),
            suppressed=self._numbers(params.suppressed_token_ids),
            biases=self._keep(BiasStruct, params.logit_bias)[1],
        )

    def _chunk(self, chunk: Chunk) -> tuple[object, ...]:
        """Fields that are not given are null and 0."""
        plain = chunk.slot, chunk.num_tokens, chunk.samples, self._numbers(chunk.token_ids)
        if chunk.allowed is None and not chunk.biases and not chunk.targets:
            return plain
        allowed, num_allowed = self._bytes(chunk.allowed)
        num_biases, biases = self._keep(BiasStruct, chunk.biases)
        targets = self._numbers(chunk.targets)
        return *plain, allowed, biases, targets, num_allowed, num_biases, len(chunk.targets)

    def _bytes(self, data: bytes | None) -> tuple[int | None, int]:
        """Where they are, also if there are none of them; they are not copied."""
        if data is None:
            return None, 0
        self.kept.append(data)
        return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value, len(data)

    def _numbers(self, numbers: Sequence[int]) -> int | None:
        """The address of an array of these; null for none."""
        if not numbers:
            return None
        values = array("i", numbers)
        self.kept.append(values)
        return values.buffer_info()[0]


@dataclass(frozen=True, slots=True)
class Wants:
    """What a slot wants beside tokens."""

    num_logprobs: int | None
    num_prompt_logprobs: int
    pools: bool

    @classmethod
    def of(cls, opened: OpenedSlot) -> "Wants | None":
        """None where it wants nothing."""
        params = opened.sampling
        wants = cls(params.num_logprobs, params.num_prompt_logprobs, opened.pools)
        return None if wants == NOTHING else wants


NOTHING = Wants(None, 0, False)


class ResultArrays:
    """Room for a result of each chunk, and for what else is to be said of it."""

    def __init__(self, chunks: Sequence[Chunk], wants: Mapping[int, Wants], hidden_size: int) -> None:
        """`wants`: of the slots that want anything."""
        self.structs = (ResultStruct * len(chunks))()
        self._rooms = {
            i: Room(chunk, wants.get(chunk.slot, NOTHING), hidden_size, self.structs[i])
            for i, chunk in enumerate(chunks)
            if chunk.targets or chunk.slot in wants
        }

    def read(self) -> tuple[ChunkResult, ...]:
        tokens = map(_token, self.structs)
        if not self._rooms:
            return tuple(tokens)
        return tuple(self._rooms[i].read() if i in self._rooms else token for i, token in enumerate(tokens))


class Room:
    """What the library is to write beside one chunk's token."""

    def __init__(self, chunk: Chunk, wants: Wants, hidden_size: int, struct: ResultStruct) -> None:
        self._struct = struct
        self._wants_logprob = wants.num_logprobs is not None
        self._top = Ranking(wants.num_logprobs or 0)
        self._targets = np.empty(len(chunk.targets), np.float32)
        self._target_tops = Ranking(wants.num_prompt_logprobs * len(chunk.targets))
        self._pooled = np.empty(hidden_size if wants.pools else 0, np.float32)
        struct.top_ids, struct.top_logprobs = self._top.addresses
        struct.target_logprobs = _address(self._targets)
        struct.target_top_ids, struct.target_top_logprobs = self._target_tops.addresses
        struct.pooled = _address(self._pooled)

    def read(self) -> ChunkResult:
        struct = self._struct
        if struct.error:
            return _token(struct)
        has_token = struct.token_id >= 0
        return ChunkResult(
            struct.token_id if has_token else None,
            struct.logprob if has_token and self._wants_logprob else None,
            self._top.read(0, struct.num_top),
            targets=tuple(
                TargetLogprob(logprob, self._target_tops.read(i, struct.num_target_top))
                for i, logprob in enumerate(self._targets.tolist())
            ),
            pooled=tuple(self._pooled.tolist()) if struct.is_pooled else None,
        )


class Ranking:
    """Room for the likeliest tokens, and for their log-probabilities."""

    def __init__(self, size: int) -> None:
        self._ids, self._logprobs = np.empty(size, np.int32), np.empty(size, np.float32)
        self.addresses = _address(self._ids), _address(self._logprobs)

    def read(self, row: int, num: int) -> tuple[tuple[int, float], ...]:
        """Of rows of so many, one behind the other."""
        some = slice(row * num, (row + 1) * num)
        return tuple(zip(self._ids[some].tolist(), self._logprobs[some].tolist(), strict=True))


def read_violation(struct: ViolationStruct) -> Violation:
    place = struct.slot, struct.index, struct.block_id
    return Violation(BREACHES[struct.kind], *place, _stamp(struct.expected), _stamp(struct.found))


def _stamp(struct: StampStruct) -> Stamp | None:
    return Stamp.of((struct.mark, struct.generation, struct.slot, struct.index, struct.block_id))


def _address(values: NDArray[Any]) -> int | None:
    """Null where there is nothing."""
    return values.ctypes.data if values.size else None


def _token(struct: ResultStruct) -> ChunkResult:
    """Or none, or why not."""
    if struct.token_id >= 0:
        return ChunkResult(struct.token_id)
    return ChunkResult(error=ERRORS[RowError(struct.error)]) if struct.error else NO_TOKEN
