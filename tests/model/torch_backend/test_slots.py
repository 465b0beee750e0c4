import pytest

from model.batch import Batch, Chunk, FreedSlot, GrownSlot, OpenedSlot, SamplingParams
from model.torch_backend.slots import SlotTable


def opened(slot: int, sampling: SamplingParams | None = None, num_prompt_tokens: int = 2) -> OpenedSlot:
    return OpenedSlot(slot, 0, num_prompt_tokens, sampling or SamplingParams())


def table_with(*slots: tuple[int, tuple[int, ...]]) -> SlotTable:
    table = SlotTable()
    table.grow(
        Batch(
            opened=tuple(opened(slot) for slot, _ in slots),
            grown=tuple(GrownSlot(slot, block_ids) for slot, block_ids in slots),
        )
    )
    return table


def test_a_slot_takes_tokens_at_the_positions_behind_those_it_has() -> None:
    slot = table_with((4, (7, 2)))[4]
    assert slot.tokens_of(Chunk(4, (10, 11, 12))) == (10, 11, 12)
    slot.append((10, 11, 12))
    slot.last_token_id = 99
    assert slot.tokens_of(Chunk(4)) == (99,)
    span = slot.span(first_row=5, num_tokens=1)
    assert (span.first_row, span.first_position, span.num_tokens, span.block_ids) == (5, 3, 1, [7, 2])
    row = slot.sampling_row(Chunk(4))
    assert (row.position, row.num_output_tokens, row.counts, row.allowed, row.biases) == (3, 1, None, None, ())


def test_what_a_chunk_says_of_its_choice_is_said_of_that_row() -> None:
    slot = table_with((4, (7,)))[4]
    row = slot.sampling_row(Chunk(4, allowed=b"\x05", biases=((2, 0.5),)))
    assert (row.allowed, row.biases) == (b"\x05", ((2, 0.5),))
    assert slot.sampling_row(Chunk(4)).allowed is None


def test_means_are_taken_where_they_are_wanted() -> None:
    table = SlotTable()
    table.grow(Batch(opened=(opened(0), OpenedSlot(1, 0, 2, SamplingParams(), pools=True))))
    assert table[0].mean is None
    assert table[1].mean is not None


def test_tokens_are_counted_where_there_are_penalties() -> None:
    table = SlotTable()
    table.grow(Batch(opened=(opened(0, SamplingParams(presence_penalty=1.0)),), grown=(GrownSlot(0, (0,)),)))
    table[0].append((5, 6))
    table[0].append((6,))
    counts = table[0].sampling_row(Chunk(0)).counts
    assert counts is not None
    assert dict(zip(counts.token_ids.tolist(), counts.num_output.tolist(), strict=True)) == {5: 0, 6: 1}


def test_a_slot_that_has_sampled_nothing_has_no_token_to_feed() -> None:
    slot = table_with((0, (1,)))[0]
    with pytest.raises(AssertionError, match="no token to feed"):
        slot.tokens_of(Chunk(0))


def test_tokens_beyond_the_blocks_are_refused() -> None:
    slot = table_with((0, (1,)))[0]
    slot.span(0, 32)
    with pytest.raises(AssertionError, match="not grown enough"):
        slot.span(0, 33)


def test_freeing_returns_the_blocks_of_known_and_of_unknown_slots() -> None:
    table = table_with((0, (3, 4)))
    assert table.free(Batch(freed=(FreedSlot(0, (3, 4)), FreedSlot(1, (5,)), FreedSlot(9, ())))) == [3, 4, 5]
    with pytest.raises(KeyError):
        table[0]
    assert table.free(Batch(freed=(FreedSlot(0, (3, 4)),))) == [3, 4]


def test_a_block_has_one_owner_until_it_is_freed() -> None:
    table = table_with((0, (3,)), (1, (4,)))
    with pytest.raises(AssertionError, match="given block 3 of slot 0"):
        table.grow(Batch(grown=(GrownSlot(1, (3,)),)))
    with pytest.raises(AssertionError, match="frees block 3 of slot 0"):
        table.free(Batch(freed=(FreedSlot(1, (4, 3)),)))
    table = table_with((0, (3,)), (1, (4,)))
    table.free(Batch(freed=(FreedSlot(0, (3,)),)))
    table.grow(Batch(grown=(GrownSlot(1, (3,)),)))
    assert table[1].block_ids == [4, 3]


def test_a_slot_cannot_keep_a_block_it_had_nor_be_opened_twice() -> None:
    with pytest.raises(AssertionError, match="would keep blocks"):
        table_with((0, (3, 4))).free(Batch(freed=(FreedSlot(0, (3,)),)))
    with pytest.raises(AssertionError, match="open already"):
        table_with((0, (3,))).grow(Batch(opened=(opened(0),)))
