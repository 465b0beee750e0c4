"""What the library is given, read back through the addresses it gets; and results as it would write them."""

import ctypes

import numpy as np
import pytest

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
from model.native.step_arrays import BatchArrays, ResultArrays
from model.native.structs import BlocksStruct, ChunkStruct, OpenedStruct, RowError


def numbers_at(address: int | None, num: int) -> list[int] | None:
    return None if address is None else list((ctypes.c_int32 * num).from_address(address))


def blocks_at(address: int, num: int) -> list[tuple[int, list[int] | None]]:
    structs = (BlocksStruct * num).from_address(address)
    return [(one.slot, numbers_at(one.block_ids, one.num_blocks)) for one in structs]


def test_a_batch_arrives_whole() -> None:
    params = SamplingParams(
        temperature=0.5,
        top_k=3,
        top_p=0.25,
        min_p=0.125,
        repetition_penalty=1.5,
        presence_penalty=-0.5,
        frequency_penalty=2.0,
        seed=2**64 - 1,
        num_logprobs=0,
        min_tokens=4,
        suppressed_token_ids=(8, 9),
    )
    batch = Batch(
        freed=(FreedSlot(1, (10, 11)), FreedSlot(2, ())),
        opened=(OpenedSlot(3, 99, 5, params), OpenedSlot(4, 99, 1, SamplingParams())),
        grown=(GrownSlot(3, (12,)),),
        chunks=(Chunk(3, (7, 8, 9), samples=False), Chunk(0)),
    )
    arrays = BatchArrays.of(batch)
    struct = arrays.struct
    assert (struct.num_freed, struct.num_opened, struct.num_grown, struct.num_chunks) == (2, 2, 1, 2)
    assert blocks_at(struct.freed, 2) == [(1, [10, 11]), (2, None)]
    assert blocks_at(struct.grown, 1) == [(3, [12])]
    chunks = [
        (one.slot, one.num_tokens, one.samples, numbers_at(one.token_ids, one.num_tokens))
        for one in (ChunkStruct * 2).from_address(struct.chunks)
    ]
    assert chunks == [(3, 3, 0, [7, 8, 9]), (0, 1, 1, None)]
    first, second = (OpenedStruct * 2).from_address(struct.opened)
    assert (first.slot, first.num_prompt_tokens, second.slot, second.num_prompt_tokens) == (3, 5, 4, 1)
    for name in SamplingParams.__slots__:
        if name != "suppressed_token_ids":
            assert getattr(first.sampling, name) == getattr(params, name), name
    assert numbers_at(first.sampling.suppressed, first.sampling.num_suppressed) == [8, 9]
    assert (second.sampling.num_logprobs, second.sampling.num_suppressed) == (-1, 0)
    assert second.sampling.suppressed is None


def test_what_is_not_in_a_batch_is_null() -> None:
    struct = BatchArrays.of(Batch()).struct
    assert (struct.freed, struct.opened, struct.grown, struct.chunks) == (None, None, None, None)
    assert (struct.num_freed, struct.num_opened, struct.num_grown, struct.num_chunks) == (0, 0, 0, 0)


@pytest.mark.parametrize("num_logprobs", [{}, {9: 2}])
def test_results_without_log_probabilities(num_logprobs: dict[int, int]) -> None:
    results = ResultArrays([Chunk(0), Chunk(1, (1,), samples=False), Chunk(2), Chunk(3)], num_logprobs)
    for struct, token_id, error in zip(results.structs, (5, -1, -1, -1), (0, 0, *list(RowError)[1:]), strict=True):
        struct.token_id, struct.error, struct.logprob = token_id, error, -1.0
        assert (struct.top_ids, struct.top_logprobs) == (None, None)
    assert results.read() == (
        ChunkResult(5),
        ChunkResult(),
        ChunkResult(error=NOT_FINITE),
        ChunkResult(error=NO_CHOICE),
    )


def test_results_have_room_for_what_each_slot_wants() -> None:
    results = ResultArrays([Chunk(0), Chunk(1), Chunk(2), Chunk(3)], {1: 3, 2: 0, 3: 2})
    for i, struct in enumerate(results.structs):
        struct.token_id, struct.logprob = 10 + i, -0.5
    for i, num in ((1, 3), (3, 2)):
        struct = results.structs[i]
        struct.num_top = num
        np.ctypeslib.as_array((ctypes.c_int32 * num).from_address(struct.top_ids))[:] = range(i, i + num)
        np.ctypeslib.as_array((ctypes.c_float * num).from_address(struct.top_logprobs))[:] = -i
    assert results.read() == (
        ChunkResult(10),
        ChunkResult(11, -0.5, ((1, -1.0), (2, -1.0), (3, -1.0))),
        ChunkResult(12, -0.5),
        ChunkResult(13, -0.5, ((3, -3.0), (4, -3.0))),
    )


def test_an_empty_step_has_no_results() -> None:
    assert ResultArrays([], {}).read() == ResultArrays([], {4: 2}).read() == ()
