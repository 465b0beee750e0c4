import pytest

from app.engine.slots import SlotTable


def test_a_slot_is_opened_without_memory() -> None:
    table = SlotTable(num_slots=2, num_blocks=4, block_size=4)
    slot = table.open("a")
    assert (slot.block_ids, slot.num_tokens, table.num_used_blocks) == ([], 0, 0)


def test_a_slot_holds_as_many_blocks_as_its_tokens_need() -> None:
    table = SlotTable(num_slots=2, num_blocks=4, block_size=4)
    slot = table.open("a")
    for num_tokens, num_blocks in ((1, 1), (4, 1), (5, 2), (8, 2), (9, 3)):
        table.grow(slot, num_tokens)
        assert len(slot.block_ids) == num_blocks == table.num_used_blocks


def test_two_slots_never_share_a_block() -> None:
    table = SlotTable(num_slots=2, num_blocks=4, block_size=4)
    one, other = table.open("a"), table.open("b")
    for num_tokens in (3, 7):
        table.grow(one, num_tokens)
        table.grow(other, num_tokens)
    assert not set(one.block_ids) & set(other.block_ids)
    table.check()


def test_freeing_gives_back_everything_and_touched_memory_is_reused_first() -> None:
    table = SlotTable(num_slots=1, num_blocks=4, block_size=4)
    first = table.open("a")
    table.grow(first, 8)
    freed = table.free(first)
    assert (table.num_used_blocks, table.num_free_slots) == (0, 1)
    second = table.open("b")
    table.grow(second, 8)
    assert second.block_ids == list(freed)


def test_a_reopened_slot_number_has_another_generation() -> None:
    table = SlotTable(num_slots=1, num_blocks=1, block_size=4)
    first = table.open("a")
    table.free(first)
    second = table.open("b")
    assert second.slot == first.slot
    assert second.generation != first.generation


def test_a_slot_is_freed_once_and_does_not_grow_afterwards() -> None:
    table = SlotTable(num_slots=1, num_blocks=2, block_size=4)
    slot = table.open("a")
    table.free(slot)
    with pytest.raises(AssertionError, match="freed once"):
        table.free(slot)
    with pytest.raises(AssertionError, match="live slot"):
        table.grow(slot, 1)


def test_the_check_sees_a_lost_and_a_stolen_block() -> None:
    table = SlotTable(num_slots=2, num_blocks=4, block_size=4)
    one, other = table.open("a"), table.open("b")
    table.grow(one, 4)
    table.grow(other, 4)
    stolen = one.block_ids.pop()
    with pytest.raises(AssertionError):
        table.check_sum()
    one.block_ids.append(other.block_ids[0])  # the sum is right again
    with pytest.raises(AssertionError):
        table.check()
    one.block_ids[:] = [stolen]
    table.check()
