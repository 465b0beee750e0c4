"""What the isolation checks of either backend found, and the one line of the log that says so.

A block's stamp says whose it is. Stamps, numbers of slots and blocks are told; what a block holds never is.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

MARK = 0x65736977746F6C73  # "slotwise", the first number of a stamp: what else lies there is no stamp

log = logging.getLogger(__name__)


class Breach(StrEnum):
    OTHER_STAMP = "is not stamped as the slot's"
    NOT_CLEAR = "held something before the slot had it"
    NOT_DESTROYED = "still holds something after the slot was freed"
    CHANGED = "was full, and has changed since"


@dataclass(frozen=True, slots=True)
class Stamp:
    """Lies in the block itself, behind its keys and values, as five numbers of 64 bits: the mark and these."""

    generation: int
    slot: int
    index: int  # of the block in its slot
    block_id: int

    @classmethod
    def of(cls, numbers: Sequence[int]) -> "Stamp | None":
        """None: there is no stamp."""
        return cls(*numbers[1:]) if numbers[0] == MARK else None

    @property
    def numbers(self) -> tuple[int, int, int, int, int]:
        return MARK, self.generation, self.slot, self.index, self.block_id

    def __str__(self) -> str:
        return f"slot {self.slot} generation {self.generation} index {self.index} block {self.block_id}"


@dataclass(frozen=True, slots=True)
class Violation:
    breach: Breach
    slot: int
    index: int  # -1: of a freed block
    block_id: int
    expected: Stamp | None
    found: Stamp | None

    @property
    def concerns_request(self) -> bool:
        """Not where the slot is gone: the block is then looked at again when it is given away."""
        return self.breach is not Breach.NOT_DESTROYED

    def __str__(self) -> str:
        stamps = f"stamp expected: {self.expected or 'none'}; found: {self.found or 'none'}"
        return f"isolation check failed: block {self.block_id} of slot {self.slot} {self.breach}; {stamps}"


def log_violations(violations: Iterable[Violation]) -> None:
    for violation in violations:
        log.critical("%s", violation)
