"""What the library is given, read back through the addresses it gets; and results as it would write them."""

import ctypes

import pytest

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
from model.native.step_arrays import BatchArrays, ResultArrays, Wants
from model.native.structs import BiasStruct, BlocksStruct, ChunkStruct, OpenedStruct, ResultStruct, RowError


def numbers_at(address: int | None, num: int) -> list[int] | None:
    return None if address is None else list((ctypes.c_int32 * num).from_address(address))


def blocks_at(address: int, num: int) -> list[tuple[int, list[int] | None]]:
    structs = (BlocksStruct * num).from_address(address)
    return [(one.slot, numbers_at(one.block_ids, one.num_blocks)) for one in structs]


def biases_at(address: int | None, num: int) -> list[tuple[int, float]] | None:
    if address is None:
        return None
    return [(one.token_id, one.amount) for one in (BiasStruct * num).from_address(address)]


def test_a_batch_arrives_whole() -> None:
    params = SamplingParams(
        temperature=0.5,
        top_k=3,
        top_p=0.25,
        min_p=0.125,
        typical_p=0.2,
        top_n_sigma=1.1,
        xtc_probability=0.3,
        xtc_threshold=0.05,
        logit_bias=((7, -100.0), (9, 0.5)),
        repetition_penalty=1.5,
        presence_penalty=-0.5,
        frequency_penalty=2.0,
        seed=2**64 - 1,
        num_logprobs=0,
        num_prompt_logprobs=6,
        min_tokens=4,
        suppressed_token_ids=(8, 9),
    )
    batch = Batch(
        freed=(FreedSlot(1, (10, 11)), FreedSlot(2, ())),
        opened=(OpenedSlot(3, 99, 5, params, pools=True), OpenedSlot(4, 99, 1, SamplingParams())),
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
    assert (first.slot, first.generation, first.num_prompt_tokens, first.pools) == (3, 99, 5, 1)
    assert (second.slot, second.num_prompt_tokens, second.pools) == (4, 1, 0)
    for name in SamplingParams.__slots__:
        if name not in ("suppressed_token_ids", "logit_bias"):
            assert getattr(first.sampling, name) == getattr(params, name), name
    assert numbers_at(first.sampling.suppressed, first.sampling.num_suppressed) == [8, 9]
    assert biases_at(first.sampling.biases, first.sampling.num_biases) == [(7, -100.0), (9, 0.5)]
    assert (second.sampling.num_logprobs, second.sampling.num_suppressed, second.sampling.num_biases) == (-1, 0, 0)
    assert (second.sampling.suppressed, second.sampling.biases) == (None, None)


def test_what_is_seldom_asked_of_a_chunk_arrives() -> None:
    chunks = (
        Chunk(0, allowed=bytes([1, 2, 254])),
        Chunk(1, allowed=b""),
        Chunk(2, biases=((5, 1.5), (6, float("-inf")))),
        Chunk(3, (7, 8, 9), targets=(8, 9)),
        Chunk(4),
    )
    arrays = BatchArrays.of(Batch(chunks=chunks))
    structs = (ChunkStruct * 5).from_address(arrays.struct.chunks)
    assert [ctypes.string_at(one.allowed, one.num_allowed) for one in structs[:2]] == [bytes([1, 2, 254]), b""]
    assert biases_at(structs[2].biases, structs[2].num_biases) == [(5, 1.5), (6, float("-inf"))]
    assert numbers_at(structs[3].targets, structs[3].num_targets) == [8, 9]
    asked = [(one.allowed is not None, one.biases is not None, one.targets is not None) for one in structs]
    nothing = (False, False, False)
    assert asked == [(True, False, False), (True, False, False), (False, True, False), (False, False, True), nothing]
    sizes = [(one.num_allowed, one.num_biases, one.num_targets) for one in structs]
    assert sizes == [(3, 0, 0), (0, 0, 0), (0, 2, 0), (0, 0, 2), (0, 0, 0)]


def test_what_is_not_in_a_batch_is_null() -> None:
    struct = BatchArrays.of(Batch()).struct
    assert (struct.freed, struct.opened, struct.grown, struct.chunks) == (None, None, None, None)
    assert (struct.num_freed, struct.num_opened, struct.num_grown, struct.num_chunks) == (0, 0, 0, 0)


LOGPROB, TOP_2, TOP_3 = (Wants(num, 0, pools=False) for num in (0, 2, 3))
POOLS = Wants(None, 0, pools=True)


def test_what_a_slot_wants() -> None:
    def wants(pools: bool = False, **params: int) -> Wants | None:
        return Wants.of(OpenedSlot(0, 1, 1, SamplingParams(**params), pools))  # type: ignore[arg-type]

    assert wants(min_tokens=3) is None
    assert wants(num_logprobs=0) == LOGPROB
    assert wants(num_prompt_logprobs=2) == Wants(None, 2, pools=False)
    assert wants(pools=True) == Wants(None, 0, pools=True)


def write(address: int | None, values: list[float], kind: type = ctypes.c_float) -> None:
    assert address is not None
    (kind * len(values)).from_address(address)[:] = values  # type: ignore[operator]


@pytest.mark.parametrize("wants", [{}, {9: TOP_2}])
def test_results_that_are_tokens_alone(wants: dict[int, Wants]) -> None:
    results = ResultArrays([Chunk(0), Chunk(1, (1,), samples=False), Chunk(2), Chunk(3), Chunk(4)], wants, 4)
    errors = 0, 0, *list(RowError)[1:]
    for struct, token_id, error in zip(results.structs, (5, -1, -1, -1, -1), errors, strict=True):
        struct.token_id, struct.error, struct.logprob = token_id, error, -1.0
        assert bytes(struct)[16:] == bytes(ctypes.sizeof(ResultStruct) - 16), "no room was made"
    assert results.read() == (
        ChunkResult(5),
        ChunkResult(),
        ChunkResult(error=NOT_FINITE),
        ChunkResult(error=NO_CHOICE),
        ChunkResult(error=NOT_ISOLATED),
    )


def test_results_have_room_for_what_each_slot_wants() -> None:
    results = ResultArrays([Chunk(slot) for slot in range(5)], {1: TOP_3, 2: LOGPROB, 3: TOP_2, 4: TOP_2}, 4)
    for i, struct in enumerate(results.structs):
        struct.token_id, struct.logprob = 10 + i, -0.5
    for i, num in ((1, 3), (3, 2)):
        struct = results.structs[i]
        struct.num_top = num
        write(struct.top_ids, list(range(i, i + num)), ctypes.c_int32)
        write(struct.top_logprobs, [-i] * num)
    results.structs[4].token_id, results.structs[4].error = -1, RowError.NO_CHOICE
    assert results.read() == (
        ChunkResult(10),
        ChunkResult(11, -0.5, ((1, -1.0), (2, -1.0), (3, -1.0))),
        ChunkResult(12, -0.5),
        ChunkResult(13, -0.5, ((3, -3.0), (4, -3.0))),
        ChunkResult(error=NO_CHOICE),
    )


def test_results_have_room_for_targets_whether_or_not_their_chunks_sample() -> None:
    chunks = [Chunk(0, (1, 2), samples=False, targets=(2, 3)), Chunk(1, (4, 5), targets=(5,)), Chunk(2, targets=(6,))]
    results = ResultArrays(chunks, {1: Wants(None, 2, pools=False)}, 4)
    first, second, third = results.structs
    first.token_id, second.token_id, third.token_id, third.error = -1, 8, -1, RowError.NOT_FINITE
    write(first.target_logprobs, [-1.0, -2.0])
    assert (first.target_top_ids, first.target_top_logprobs) == (None, None)
    second.num_target_top = 2
    write(second.target_logprobs, [-4.0])
    write(second.target_top_ids, [7, 5], ctypes.c_int32)
    write(second.target_top_logprobs, [-0.5, -4.0])
    assert results.read() == (
        ChunkResult(targets=(TargetLogprob(-1.0), TargetLogprob(-2.0))),
        ChunkResult(8, targets=(TargetLogprob(-4.0, ((7, -0.5), (5, -4.0))),)),
        ChunkResult(error=NOT_FINITE),
    )


def test_each_target_has_likeliest_tokens_of_its_own() -> None:
    """In rows of as many as there are: of a vocabulary of one, one."""
    results = ResultArrays([Chunk(0, (0, 0), targets=(0, 0))], {0: Wants(None, 3, pools=False)}, 4)
    (struct,) = results.structs
    struct.num_target_top = 1
    write(struct.target_logprobs, [-1.0, -2.0])
    write(struct.target_top_ids, [8, 9], ctypes.c_int32)
    write(struct.target_top_logprobs, [-0.25, -0.5])
    (result,) = results.read()
    assert result.targets == (TargetLogprob(-1.0, ((8, -0.25),)), TargetLogprob(-2.0, ((9, -0.5),)))


def test_a_pooled_vector_is_there_when_the_library_says_so() -> None:
    results = ResultArrays([Chunk(0, (1,), samples=False), Chunk(1, (1,))], dict.fromkeys((0, 1), POOLS), 3)
    for struct, is_pooled in zip(results.structs, (0, 1), strict=True):
        struct.token_id, struct.is_pooled = -1, is_pooled
        write(struct.pooled, [1.0, 2.0, 3.0])
    assert results.read() == (ChunkResult(), ChunkResult(pooled=(1.0, 2.0, 3.0)))


def test_an_empty_step_has_no_results() -> None:
    assert ResultArrays([], {}, 4).read() == ResultArrays([], {4: TOP_2}, 4).read() == ()
