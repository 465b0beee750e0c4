"""The "don't repeat yourself" penalty (DRY, as p-e-w proposed it in text-generation-webui's pull request 5677): the
longer the repetition that a token would prolong, the less likely it is made.

A repetition ends at an earlier position if the tokens up to there are those that the text ends with. The length of each
is kept; with a new token only those live on, one longer, that the same token followed. So a token costs as much as it
has occurrences, not as much as the text is long.
"""

import math
import sys
from collections import defaultdict, deque
from collections.abc import Sequence

from app.engine.request import Dry

_MAX_PENALTY = 1e4  # beyond any logit: what is penalised so comes only if nothing else may


class Repetitions:
    """Of one request, whose growing tokens it reads."""

    def __init__(self, dry: Dry, token_ids: Sequence[int]) -> None:
        self._dry = dry
        self._token_ids = token_ids
        self._marked: list[int] = []  # the tokens read; a breaker is a mark of its place, and so is like no other
        self._places: defaultdict[int, deque[int]] = defaultdict(deque)  # token → where it is, within the window
        self._lengths: dict[int, int] = {}  # where a repetition ends → its length
        self._max_exponent = _max_exponent(dry)

    def biases(self) -> tuple[tuple[int, float], ...]:
        """(token id, what is to be added to its logit) of each token that would prolong a repetition."""
        self._read()
        start = max(0, len(self._marked) - self._window)
        longest: dict[int, int] = {}
        for place, length in self._lengths.items():
            length = min(length, place - start + 1)
            next_token = self._marked[place + 1]
            if length >= self._dry.allowed_length and next_token >= 0:
                longest[next_token] = max(length, longest.get(next_token, 0))
        return tuple((token_id, -self._penalty(length)) for token_id, length in longest.items())

    @property
    def _window(self) -> int:
        return len(self._marked) if self._dry.last_n < 0 else self._dry.last_n

    def _penalty(self, length: int) -> float:
        exponent = min(length - self._dry.allowed_length, self._max_exponent)
        return min(self._dry.multiplier * self._dry.base**exponent, _MAX_PENALTY)

    def _read(self) -> None:
        """Takes in the tokens that came since the last time."""
        if not self._marked:
            self._read_prompt()
        for token_id in self._token_ids[len(self._marked) :]:
            place = len(self._marked)
            token = self._mark(token_id, place)
            self._marked.append(token)
            places = self._places[token]
            while places and places[0] < place + 1 - self._window:
                places.popleft()
            self._lengths = {other: 1 + self._lengths.get(other - 1, 0) for other in places}
            places.append(place)

    def _read_prompt(self) -> None:
        """All at once, in a time that grows with its length, however often it repeats itself."""
        self._marked = [self._mark(token_id, place) for place, token_id in enumerate(self._token_ids)]
        last = len(self._marked) - 1
        for place, token in enumerate(self._marked):
            self._places[token].append(place)
        backwards = _prefix_lengths(self._marked[::-1])
        self._lengths = {last - distance: length for distance, length in enumerate(backwards) if distance and length}

    def _mark(self, token_id: int, place: int) -> int:
        return ~place if token_id in self._dry.breaker_token_ids else token_id


def _max_exponent(dry: Dry) -> int:
    """From where on the penalty is as large as it gets; the power itself might be too large for a float."""
    if dry.base <= 1:
        return sys.maxsize
    if not 0 < dry.multiplier < _MAX_PENALTY:
        return 0
    return math.ceil(math.log(_MAX_PENALTY / dry.multiplier) / math.log(dry.base))


def _prefix_lengths(tokens: Sequence[int]) -> list[int]:
    """For each place, how many tokens from there on are those that the sequence begins with (its Z function)."""
    lengths = [0] * len(tokens)
    left = right = 0  # the stretch, furthest to the right, that is known to equal the beginning
    for place in range(1, len(tokens)):
        length = min(right - place, lengths[place - left]) if place < right else 0
        while place + length < len(tokens) and tokens[length] == tokens[place + length]:
            length += 1
        lengths[place] = length
        if place + length > right:
            left, right = place, place + length
    return lengths
