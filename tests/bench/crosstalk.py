"""Servers with planted faults: what a request is answered depends, in one way or another, on who else is there."""

import time
from collections.abc import Callable, Sequence

from model.batch import Batch
from tests.fakes import FakeRunner, FakeSlot

Leak = Callable[[FakeSlot, Sequence[FakeSlot]], bool]  # (the request's slot, the others') → whether it sees them


def never(slot: FakeSlot, others: Sequence[FakeSlot]) -> bool:
    return False


def always(slot: FakeSlot, others: Sequence[FakeSlot]) -> bool:
    return True


def if_seeded(slot: FakeSlot, others: Sequence[FakeSlot]) -> bool:
    """One random state for all."""
    return slot.opened.sampling.temperature > 0


def at_last_token_of_sixteen(slot: FakeSlot, others: Sequence[FakeSlot]) -> bool:
    """As where a block's last position is written by another request."""
    return slot.num_tokens % 16 == 15 and len(others) >= 3


def printable(token_ids: Sequence[int], num_prompt_tokens: int) -> int:
    """A letter that depends on all tokens and their order."""
    return 97 + sum((place + 1) * token for place, token in enumerate(token_ids)) % 9973 % 26


class LeakyRunner(FakeRunner):
    """Reads, where `leaks` says so, the last token of each other slot with a request's own. A step takes long enough
    for requests to meet."""

    def __init__(self, leaks: Leak, step_s: float = 0.001) -> None:
        super().__init__(printable, num_blocks=256, before_step=lambda batch: time.sleep(step_s))
        self.leaks = leaks

    def _read(self, slot: FakeSlot) -> list[int]:
        sampling = slot.opened.sampling
        own = [*super()._read(slot), *([sampling.seed % 97] if sampling.temperature > 0 else [])]
        others = [other for other in self.slots.values() if other is not slot and other.last_token_id is not None]
        return own + [other.last_token_id or 0 for other in others if self.leaks(slot, others)]


class MoodyRunner(LeakyRunner):
    """Never answers the same way twice, alone or not."""

    num_steps = 0

    def run(self, batch: Batch):  # type: ignore[no-untyped-def]
        self.num_steps += 1
        return super().run(batch)

    def _read(self, slot: FakeSlot) -> list[int]:
        return [*super()._read(slot), self.num_steps % 89]
