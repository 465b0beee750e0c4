"""Slots and the blocks they own: integers, no tensors.

A slot is the KV cache of one request. It is opened empty, grows block by block as its tokens come, and is freed once;
a block belongs to one slot or to nobody. Who may open and grow is the scheduler's business, what the blocks hold the
runner's.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from model.batch import num_blocks_for


@dataclass(slots=True, eq=False)
class Slot:
    slot: int
    generation: int  # how often this slot number has been opened: never the same twice
    owner: str  # the request's id
    block_ids: list[int] = field(default_factory=list)
    num_tokens: int = 0  # positions whose keys and values are written


class SlotTable:
    """All slots, and the pool their blocks come from. Freed numbers are reused last in, first out, so that memory
    which was never touched stays untouched."""

    def __init__(self, num_slots: int, num_blocks: int, block_size: int) -> None:
        self.num_slots = num_slots
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free_slots = list(reversed(range(num_slots)))
        self._free_blocks = list(reversed(range(num_blocks)))
        self._live: dict[int, Slot] = {}
        self._num_opened = 0

    @property
    def live(self) -> Iterable[Slot]:
        return self._live.values()

    @property
    def num_free_slots(self) -> int:
        return len(self._free_slots)

    @property
    def num_free_blocks(self) -> int:
        return len(self._free_blocks)

    @property
    def num_used_blocks(self) -> int:
        return self.num_blocks - len(self._free_blocks)

    def open(self, owner: str) -> Slot:
        self._num_opened += 1
        slot = Slot(self._free_slots.pop(), self._num_opened, owner)
        self._live[slot.slot] = slot
        return slot

    def num_missing(self, slot: Slot, num_tokens: int) -> int:
        """Blocks that `slot` lacks to hold `num_tokens` positions."""
        return max(0, num_blocks_for(num_tokens, self.block_size) - len(slot.block_ids))

    def grow(self, slot: Slot, num_tokens: int) -> tuple[int, ...]:
        """Gives `slot` the blocks it lacks to hold `num_tokens` positions; returns the new ones."""
        assert self._live.get(slot.slot) is slot, "only a live slot grows"
        num_missing = self.num_missing(slot, num_tokens)
        if not num_missing:  # as in most steps
            return ()
        added = tuple(self._free_blocks.pop() for _ in range(num_missing))
        slot.block_ids.extend(added)
        return added

    def free(self, slot: Slot) -> tuple[int, ...]:
        """Takes back the slot and all of its blocks; returns these."""
        assert self._live.get(slot.slot) is slot, "a slot is freed once"
        del self._live[slot.slot]
        self._free_slots.append(slot.slot)
        self._free_blocks.extend(reversed(slot.block_ids))
        return tuple(slot.block_ids)

    def check_sum(self) -> None:
        """Asserts, cheaply enough for every step, that no block is lost: sum of live slots == blocks in use."""
        assert sum(len(slot.block_ids) for slot in self.live) == self.num_used_blocks

    def check(self) -> None:
        """Asserts, besides, that no block and no slot number has two owners."""
        self.check_sum()
        owned = [block for slot in self.live for block in slot.block_ids]
        assert sorted([*owned, *self._free_blocks]) == list(range(self.num_blocks))
        assert sorted([*self._live, *self._free_slots]) == list(range(self.num_slots))
