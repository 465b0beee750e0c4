"""The canary of the KV cache: whether each block is still its slot's, and holds what the slot left there.

Compares stamps and checksums, and says which chunks a violation concerns; computes nothing for anybody.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from model.batch import NOT_ISOLATED, Batch, Chunk, ChunkResult
from model.isolation import MARK, Breach, Stamp, Violation
from model.options import IsolationChecksName
from model.torch_backend.kv_cache import BLOCK_SIZE, KVCache
from model.torch_backend.slots import Slot, SlotTable


class IsolationChecks:
    """Of a cache and the slots in it. `violations`: those of the step under way."""

    def __init__(self, cache: KVCache, slots: SlotTable, kind: IsolationChecksName) -> None:
        self._cache = cache
        self._slots = slots
        self._is_on = kind != "off"
        self._is_thorough = kind == "debug"
        self._turn = 0  # whose full block is next
        self.violations: list[Violation] = []

    def before_computing(self, batch: Batch) -> list[Chunk]:
        """When freed blocks are destroyed and new ones given: looks at these (in debug at all of it, else where the
        stamp goes), at the stamps of the chunks' blocks, and at full ones (in debug at all of all slots, else at one,
        another each time). Returns the chunks that may be computed."""
        self.violations = []
        if not self._is_on:
            return list(batch.chunks)
        if self._is_thorough:
            self._look_at_freed(batch)
        self._stamp_new(batch)
        slots = self._slots_of(batch.chunks)
        self._check_stamps(slots)
        self._check_full(_all_full(slots) if self._is_thorough else self._next_full(slots))
        return [chunk for chunk in batch.chunks if not self._concerns(chunk)]

    def after_computing(self, chunks: Sequence[Chunk], results: Sequence[ChunkResult]) -> tuple[ChunkResult, ...]:
        """Looks at the stamps again, in debug at the full blocks too, and remembers the checksums of those that became
        full. results: of those of the chunks that were computed; returns one for each."""
        if not self._is_on:
            return tuple(results)
        computed = iter(results)
        taken = [None if self._concerns(chunk) else next(computed) for chunk in chunks]
        slots = self._slots_of(chunks)
        self._check_stamps(slots)
        if self._is_thorough:
            self._check_full(_all_full(slots))
        for slot in slots:
            new = range(len(slot.checksums), slot.num_tokens // BLOCK_SIZE)
            slot.checksums += self._cache.checksums([slot.block_ids[index] for index in new])
        failed = ChunkResult(error=NOT_ISOLATED)
        pairs = zip(chunks, taken, strict=True)
        return tuple(failed if result is None or self._concerns(chunk) else result for chunk, result in pairs)

    def _slots_of(self, chunks: Sequence[Chunk]) -> list[Slot]:
        return list(self._slots.all()) if self._is_thorough else [self._slots[chunk.slot] for chunk in chunks]

    def _concerns(self, chunk: Chunk) -> bool:
        return any(one.slot == chunk.slot and one.concerns_request for one in self.violations)

    def _look_at_freed(self, batch: Batch) -> None:
        for freed in batch.freed:
            for block_id in freed.block_ids:
                if not self._cache.is_clear(block_id):
                    found = Stamp.of(self._cache.stamps[block_id].tolist())
                    place = freed.slot, -1, block_id
                    self.violations.append(Violation(Breach.NOT_DESTROYED, *place, None, found))

    def _stamp_new(self, batch: Batch) -> None:
        for grown in batch.grown:
            slot = self._slots[grown.slot]
            for index, block_id in enumerate(grown.block_ids, len(slot.block_ids) - len(grown.block_ids)):
                is_clear = self._cache.is_clear(block_id) if self._is_thorough else self._cache.has_no_stamp(block_id)
                if not is_clear:
                    self._report(Breach.NOT_CLEAR, slot, index)
                numbers = _stamp_of(slot, index).numbers
                self._cache.stamps[block_id] = torch.tensor(numbers, device=self._cache.device)

    def _check_stamps(self, slots: Sequence[Slot]) -> None:
        """A block has room for one stamp: where all are right, no block is in two slots, or twice in one."""
        if not any(slot.block_ids for slot in slots):
            return
        expected = np.concatenate([_stamps_of(slot) for slot in slots])
        ids = torch.from_numpy(expected[:, -1]).to(self._cache.device)
        found = self._cache.stamps[ids].cpu().numpy()
        places = [(slot, index) for slot in slots for index in range(len(slot.block_ids))]
        for row in (found != expected).any(1).nonzero()[0]:
            self._report(Breach.OTHER_STAMP, *places[row])

    def _check_full(self, full: Sequence[tuple[Slot, int]]) -> None:
        for (slot, index), now in zip(
            full, self._cache.checksums([slot.block_ids[index] for slot, index in full]), strict=True
        ):
            if now != slot.checksums[index]:
                self._report(Breach.CHANGED, slot, index)

    def _next_full(self, slots: Sequence[Slot]) -> list[tuple[Slot, int]]:
        """Slot after slot, and of each block after block."""
        if not slots:
            return []
        slot = slots[self._turn % len(slots)]
        self._turn += 1
        if not slot.checksums:
            return []
        slot.num_checked += 1
        return [(slot, slot.num_checked % len(slot.checksums))]

    def _report(self, breach: Breach, slot: Slot, index: int) -> None:
        """One violation of a block is enough: whose stamp is another's is not full of what the slot left, either."""
        expected = _stamp_of(slot, index)
        if any((one.slot, one.block_id) == (expected.slot, expected.block_id) for one in self.violations):
            return
        found = Stamp.of(self._cache.stamps[expected.block_id].tolist())
        self.violations.append(Violation(breach, expected.slot, index, expected.block_id, expected, found))


def _stamp_of(slot: Slot, index: int) -> Stamp:
    return Stamp(slot.opened.generation, slot.opened.slot, index, slot.block_ids[index])


def _stamps_of(slot: Slot) -> NDArray[np.int64]:
    """[blocks, 5]"""
    stamps = np.empty((len(slot.block_ids), 5), np.int64)
    stamps[:, :3] = MARK, slot.opened.generation, slot.opened.slot
    stamps[:, 3] = np.arange(len(slot.block_ids))
    stamps[:, 4] = slot.block_ids
    return stamps


def _all_full(slots: Sequence[Slot]) -> list[tuple[Slot, int]]:
    return list(chain.from_iterable(((slot, index) for index in range(len(slot.checksums))) for slot in slots))
