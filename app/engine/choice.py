"""What may be chosen next in a request, where not every token may: its constraint's mask, its bad words and its penalty
on repetitions, as a step's chunk has them. Most requests have none of these, and no Choice.

The constraint itself is left to the threads that compute masks.
"""

from collections.abc import Callable, Iterable

from app.engine.bad_words import BadWords
from app.engine.repetitions import Repetitions
from app.engine.request import Request


class Choice:
    """Of one request, whose growing tokens it reads."""

    def __init__(self, request: Request) -> None:
        params = request.params
        self.constraint = params.constraint
        self.mask: bytes | None = None  # the constraint's, of the next token, once it has been computed
        self._bad_words = BadWords(params.bad_words, request.token_ids)
        self._repetitions = Repetitions(params.dry, request.token_ids) if params.dry else None

    @property
    def is_ready(self) -> bool:
        """Whether a token can be chosen in this step."""
        return self.constraint is None or self.mask is not None

    def allowed(self, vocab_size: int) -> bytes | None:
        """As Chunk.allowed."""
        banned = self._bad_words.banned()
        if not banned:
            return self.mask
        return _without(_all(vocab_size) if self.mask is None else self.mask, banned)

    def biases(self) -> tuple[tuple[int, float], ...]:
        """As Chunk.biases."""
        return self._repetitions.biases() if self._repetitions else ()


class Choices:
    """Those of the open requests that need one.

    `ask` has the mask computed of a request's token behind the one given (None: of its first); it comes with `take`.
    """

    def __init__(self, ask: Callable[[Request, int | None], None] | None) -> None:
        self._ask = ask
        self._of: dict[Request, Choice] = {}

    def add(self, request: Request) -> None:
        params = request.params
        if params.constraint is not None or params.bad_words or params.dry is not None:
            self._of[request] = Choice(request)

    def get(self, request: Request) -> Choice | None:
        return self._of.get(request)

    def drop(self, request: Request) -> None:
        self._of.pop(request, None)

    def move_on(self, request: Request, token_id: int | None) -> None:
        """Of a request with a constraint, to the token behind the one given (None: to the first)."""
        assert self._ask is not None, "constraints need somebody who computes their masks"
        self._of[request].mask = None
        self._ask(request, token_id)

    def take(self, request: Request, mask: bytes) -> None:
        """The mask that was asked for; of no use to a request that has ended meanwhile."""
        if request in self._of:
            self._of[request].mask = mask


def _all(vocab_size: int) -> bytes:
    return ((1 << vocab_size) - 1).to_bytes(-(-vocab_size // 8), "little")


def _without(mask: bytes, token_ids: Iterable[int]) -> bytes:
    bits = bytearray(mask)
    for token_id in token_ids:
        if token_id // 8 < len(bits):
            bits[token_id // 8] &= ~(1 << token_id % 8)
    return bytes(bits)
