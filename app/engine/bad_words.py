"""Token sequences that must not come whole: the last token of one is never chosen behind the others.

Of prompt and output together: a sequence that the prompt begins is not completed, either.
"""

from collections import defaultdict
from collections.abc import Sequence


class BadWords:
    """Of one request. Reads its growing tokens, and keeps nothing but where each sequence would be completed."""

    def __init__(self, words: Sequence[tuple[int, ...]], token_ids: Sequence[int]) -> None:
        self._token_ids = token_ids
        self._always = {word[0] for word in words if len(word) == 1}
        self._behind = defaultdict(list)  # the token before the last one → the sequences
        for word in words:
            if len(word) > 1:
                self._behind[word[-2]].append(word)

    def banned(self) -> set[int]:
        """What must not come next."""
        ends = self._behind.get(self._token_ids[-1], ())
        return self._always | {word[-1] for word in ends if self._is_begun(word)}

    def _is_begun(self, word: tuple[int, ...]) -> bool:
        return tuple(self._token_ids[1 - len(word) :]) == word[:-1]
