"""Text to token ids and back, and what else a server asks of a vocabulary: the bytes of each token, which tokens are
special, which end a text. The work is done by `tokenizers`; formats build its object, this module wraps it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from model.chat_template import ChatTemplate
from model.errors import ModelError
from model.formats.tokenizer_folder import FolderConfig, read_backend
from model.token_bytes import token_bytes

# The regular expression engine of `tokenizers` panics, past every `except Exception`, after ten million steps back
# in one match: about that many spaces in a row.
MAX_TEXT_LENGTH = 4_000_000  # characters


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """May be used by several threads at once."""

    backend: tokenizers.Tokenizer
    token_bytes: Sequence[bytes]  # of each id; b"" for an id without a token
    special_token_ids: frozenset[int]  # never printed
    eos_token_ids: frozenset[int]  # each ends a text

    @classmethod
    def from_backend(
        cls,
        backend: tokenizers.Tokenizer,
        path: Path,
        *,
        eos_token_ids: Iterable[int | None],
        template: ChatTemplate | None,
    ) -> "Tokenizer":
        """The special token that the template writes behind an answer ends a text too. Raises ModelError, naming
        `path`, for a tokenizer whose tokens cannot be spelled in bytes, and a template whose text has no tokens."""
        special = frozenset(token_id for token_id, token in backend.get_added_tokens_decoder().items() if token.special)
        behind = template.text_behind_answer().lstrip() if template else ""
        try:
            turn_end = special.intersection(_encode(backend, behind, add_special_tokens=False)[:1])
        except ValueError as error:
            raise ModelError(path, f"behind an answer of the chat template {error}") from error
        return cls(
            backend=backend,
            token_bytes=token_bytes(backend, path),
            special_token_ids=special,
            eos_token_ids=turn_end.union(token_id for token_id in eos_token_ids if token_id is not None),
        )

    @classmethod
    def from_folder(cls, path: Path) -> "Tokenizer":
        """Of a Hugging Face folder: tokenizer.json, tokenizer_config.json, and its chat template. Raises ModelError."""
        config = FolderConfig.read(path)
        backend = read_backend(config)
        ends = [backend.token_to_id(text) for role, text in config.special_tokens.items() if role == "eos_token"]
        return cls.from_backend(backend, path, eos_token_ids=ends, template=ChatTemplate.from_folder(path))

    @property
    def vocab_size(self) -> int:
        """Added tokens included. A model may have more rows than that."""
        return len(self.token_bytes)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The name of a special token in `text` becomes that token, as in transformers. `add_special_tokens`: what the
        model wants around every text, such as a beginning of text. Raises ValueError for what is not Unicode text, and
        for a text that no model has room for."""
        return _encode(self.backend, text, add_special_tokens)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Raises ValueError for an id that is not in the vocabulary."""
        for token_id in token_ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"token id {token_id} is not in the vocabulary of {self.vocab_size} tokens.")
        text: str = self.backend.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return text


def _encode(backend: tokenizers.Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    if len(text) > MAX_TEXT_LENGTH:
        raise ValueError(f"the text has {len(text)} characters; at most {MAX_TEXT_LENGTH} can be tokenized.")
    _refuse_surrogates(text)
    ids: list[int] = backend.encode(text, add_special_tokens=add_special_tokens).ids
    return ids


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        raise ValueError(f"the text has half of a surrogate pair, {code}, at character {error.start}.") from error
