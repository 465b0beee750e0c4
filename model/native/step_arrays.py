"""A `Batch` as the C structs of one step, and its results as the engine reads them. Nothing here is kept for the next
step; how many log-probabilities a slot wants comes with the call."""

import ctypes
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.batch import (
    NO_CHOICE,
    NOT_FINITE,
    Batch,
    Chunk,
    ChunkResult,
    FreedSlot,
    GrownSlot,
    OpenedSlot,
    SamplingParams,
)
from model.native.structs import (
    BatchStruct,
    BlocksStruct,
    ChunkStruct,
    OpenedStruct,
    ResultStruct,
    RowError,
    SamplingStruct,
)

ERRORS = {RowError.NOT_FINITE: NOT_FINITE, RowError.NO_CHOICE: NO_CHOICE}
NO_TOKEN = ChunkResult()
NUMBER_BYTES = 4  # of a token id, and of a log-probability


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
        return opened.slot, opened.num_prompt_tokens, self._sampling(opened.sampling)

    def _sampling(self, params: SamplingParams) -> SamplingStruct:
        return SamplingStruct(
            seed=params.seed,
            temperature=params.temperature,
            top_p=params.top_p,
            min_p=params.min_p,
            repetition_penalty=params.repetition_penalty,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            top_k=params.top_k,
            num_logprobs=-1 if params.num_logprobs is None else params.num_logprobs,
            min_tokens=params.min_tokens,
            num_suppressed=len(params.suppressed_token_ids),
            suppressed=self._numbers(params.suppressed_token_ids),
        )

    def _chunk(self, chunk: Chunk) -> tuple[object, ...]:
        return chunk.slot, chunk.num_tokens, chunk.samples, self._numbers(chunk.token_ids)

    def _numbers(self, numbers: Sequence[int]) -> int | None:
        """The address of an array of these; null for none."""
        if not numbers:
            return None
        values = array("i", numbers)
        self.kept.append(values)
        return values.buffer_info()[0]


class ResultArrays:
    """Room for a result of each chunk, and for the likeliest tokens of those that want them."""

    def __init__(self, chunks: Sequence[Chunk], num_logprobs: Mapping[int, int]) -> None:
        """`num_logprobs`: of the slots that want any; 0 for that of the chosen token alone."""
        self._chunks = chunks
        self._num_logprobs = num_logprobs
        self.structs = (ResultStruct * len(chunks))()
        shape = (len(chunks), max(num_logprobs.values(), default=0))
        self._top_ids, self._top_logprobs = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        if shape[1]:
            self._give_room(shape[1])

    def _give_room(self, num: int) -> None:
        ids, logprobs, row_bytes = self._top_ids.ctypes.data, self._top_logprobs.ctypes.data, num * NUMBER_BYTES
        for i, chunk in enumerate(self._chunks):
            if chunk.slot in self._num_logprobs:
                struct = self.structs[i]
                struct.top_ids, struct.top_logprobs = ids + i * row_bytes, logprobs + i * row_bytes

    def read(self) -> tuple[ChunkResult, ...]:
        if not self._num_logprobs:
            return tuple(
                ChunkResult(struct.token_id) if struct.token_id >= 0 else _without_token(struct)
                for struct in self.structs
            )
        return tuple(self._read(i) for i in range(len(self._chunks)))

    def _read(self, i: int) -> ChunkResult:
        struct = self.structs[i]
        if struct.token_id < 0:
            return _without_token(struct)
        if self._chunks[i].slot not in self._num_logprobs:
            return ChunkResult(struct.token_id)
        ids, logprobs = (top[i, : struct.num_top].tolist() for top in (self._top_ids, self._top_logprobs))
        return ChunkResult(struct.token_id, struct.logprob, tuple(zip(ids, logprobs, strict=True)))


def _without_token(struct: ResultStruct) -> ChunkResult:
    return ChunkResult(error=ERRORS[RowError(struct.error)]) if struct.error else NO_TOKEN
