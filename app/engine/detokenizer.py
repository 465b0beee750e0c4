"""Token ids become printable text, one at a time: never half a character, never the beginning of a stop string.

The concatenation of everything returned equals decoding all bytes at once with U+FFFD for what is not UTF-8, up to the
first stop string, or up to its end.
"""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the engine needs of a tokenizer to turn token ids into text: no tokenizer, only its table."""

    token_bytes: Sequence[bytes]  # UTF-8 bytes of each token id; a token may hold part of a character
    special_token_ids: frozenset[int]  # printed only where a request asks for it


class Detokenizer:
    """The text of one request as it grows."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        stop: tuple[str, ...] = (),
        *,
        includes_stop: bool = False,
        prints_special_tokens: bool = False,
    ) -> None:
        self._token_bytes = vocabulary.token_bytes
        self._unprinted = frozenset() if prints_special_tokens else vocabulary.special_token_ids
        self._stop = stop
        self._includes_stop = includes_stop
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""  # printable but for a stop string that it may be the beginning of
        self.matched: str | None = None  # the stop string that ended the text

    def push(self, token_id: int, *, may_stop: bool = True) -> str:
        """The text that `token_id` makes printable. `may_stop` False: stop strings in it do not count."""
        if token_id in self._unprinted:
            return ""
        text = self._held + self._decoder.decode(self._token_bytes[token_id])
        self._held = ""
        return self._until_stop(text) if self._stop and may_stop else text

    def flush(self) -> str:
        """What is left when no more tokens come: text held back, and U+FFFD for half a character."""
        text = self._held + self._decoder.decode(b"", final=True)
        self._held = ""
        return text

    def _until_stop(self, text: str) -> str:
        matches = [(position, stop) for stop in self._stop if (position := text.find(stop)) >= 0]
        if matches:
            position, self.matched = min(matches, key=lambda match: match[0])
            return text[: position + len(self.matched) * self._includes_stop]
        num_held = self._num_held(text)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def _num_held(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = min(len(text), max(map(len, self._stop)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
