"""Texts that a constraint lets pass, found by choosing at random among what it allows."""

import random
from collections.abc import Iterator, Sequence

from app.engine.grammars.constraints import GrammarConstraint

PATIENCE = 30  # tokens; then it ends what it can: the text, else a string, an array, an object
CLOSING = (b'"', b"}", b"]")


class Walker:
    def __init__(self, token_bytes: Sequence[bytes], eos: frozenset[int], seed: int) -> None:
        self._token_bytes = token_bytes
        self._eos = eos
        self._choose = random.Random(seed)
        self._closing = [token_id for token_id, raw in enumerate(token_bytes) if raw in CLOSING]

    def walk(self, constraint: GrammarConstraint, limit: int = 300) -> str | None:
        """A finished text, or None for one that did not end in `limit` tokens."""
        text = bytearray()
        for length in range(limit):
            token_id = self._next(constraint.allowed(), length > PATIENCE)
            constraint.accept(token_id)
            if token_id in self._eos:
                return text.decode()
            text += self._token_bytes[token_id]
        return None

    def _next(self, mask: bytes, is_impatient: bool) -> int:
        if is_allowed(min(self._eos), mask) and (is_impatient or self._choose.random() < 0.2):
            return min(self._eos)
        closing = [token_id for token_id in self._closing if is_impatient and is_allowed(token_id, mask)]
        if closing:
            return self._choose.choice(closing)
        index = self._choose.choice([index for index, byte in enumerate(mask) if byte])
        return self._choose.choice([8 * index + bit for bit in range(8) if mask[index] >> bit & 1])


def is_allowed(token_id: int, mask: bytes) -> bool:
    return token_id // 8 < len(mask) and bool(mask[token_id // 8] >> token_id % 8 & 1)


def allowed_ids(constraint: GrammarConstraint) -> Iterator[int]:
    mask = constraint.allowed()
    return (token_id for token_id in range(8 * len(mask)) if is_allowed(token_id, mask))
