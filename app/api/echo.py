"""A prompt as the beginning of its own answer: its text, and where in it its tokens begin."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.api.logprobs import Offsets, TokenTexts


@dataclass(frozen=True, slots=True)
class Echo:
    text: str
    text_offset: tuple[int, ...]  # one for each token of the prompt


def echo(prompt: str | Sequence[int], token_ids: Sequence[int], texts: TokenTexts) -> Echo:
    """Of a text: as it was written, with the special tokens that it names and without those put before it. Of token
    ids: as they would be printed."""
    printed = [texts.printed(token_id) for token_id in token_ids]
    if isinstance(prompt, str):
        printed = _as_written(prompt, [texts.raw(token_id) for token_id in token_ids])
    offsets = Offsets()
    text_offset = tuple(offsets.next(raw) for raw in printed)
    return Echo(prompt if isinstance(prompt, str) else b"".join(printed).decode(errors="replace"), text_offset)


def _as_written(prompt: str, raw: list[bytes]) -> list[bytes]:
    """The bytes of each token, none for the first few: those that together are as long as what the tokens have more
    than the prompt."""
    num_added = sum(map(len, raw)) - len(prompt.encode())
    written = []
    for token in raw:
        written.append(b"" if num_added > 0 else token)
        num_added -= len(token)
    return written
