"""Text to token ids and back, and what else a server asks of a vocabulary: the bytes of each token, which tokens are
special, which end a text. The work is done by `tokenizers`; formats build its object, this module wraps it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from model.chat_messages import CostlyTemplateError
from model.chat_template import ChatTemplate
from model.errors import ModelError
from model.formats.tokenizer_folder import FolderConfig, read_backend
from model.plain_text import PlainText, token_ids_of
from model.token_bytes import token_bytes

# The regular expression engine of `tokenizers` panics, past every `except Exception`, after ten million steps back
# in one match: about that many spaces in a row.
MAX_TEXT_LENGTH = 4_000_000  # characters

# Around parts of an answer, where whoever reads it needs them: printed also by a vocabulary that calls them special.
TAGS = frozenset({"<think>", "</think>", "<tool_call>", "</tool_call>"})


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """May be used by several threads at once."""

    backend: tokenizers.Tokenizer
    token_bytes: Sequence[bytes]  # of each id; b"" for an id without a token
    special_token_ids: frozenset[int]  # never printed
    eos_token_ids: frozenset[int]  # each ends a text
    special_tokens: Mapping[str, str]  # text by role: bos_token, eos_token, …; only those that the model names
    plain_text: PlainText

    @classmethod
    def from_backend(
        cls,
        backend: tokenizers.Tokenizer,
        path: Path,
        *,
        special_tokens: Mapping[str, str],
        eos_token_ids: Iterable[int | None],
        template: ChatTemplate | None,
    ) -> "Tokenizer":
        """The special token that the template writes behind an answer ends a text too. Raises ModelError, naming
        `path`, for a tokenizer whose tokens cannot be spelled in bytes, and a template whose text has no tokens."""
        added = backend.get_added_tokens_decoder().items()
        special = frozenset(token_id for token_id, token in added if token.special and token.content not in TAGS)
        try:
            behind = template.text_behind_answer().lstrip() if template else ""
            turn_end = special.intersection(_encode(backend, behind, add_special_tokens=False)[:1])
        except CostlyTemplateError as error:
            raise ModelError(path, f"the chat template cannot be used: {error}") from error
        except ValueError as error:
            raise ModelError(path, f"behind an answer of the chat template {error}") from error
        return cls(
            backend=backend,
            token_bytes=token_bytes(backend, path),
            special_token_ids=special,
            eos_token_ids=turn_end.union(token_id for token_id in eos_token_ids if token_id is not None),
            special_tokens=special_tokens,
            plain_text=PlainText(
                backend, {token.content: token_id for token_id, token in added if token_id in special}
            ),
        )

    @classmethod
    def from_folder(cls, path: Path) -> "Tokenizer":
        """Of a Hugging Face folder: tokenizer.json, tokenizer_config.json, and its chat template. Raises ModelError."""
        config = FolderConfig.read(path)
        backend = read_backend(config)
        roles, template = config.special_tokens, ChatTemplate.from_folder(path)
        ends = [backend.token_to_id(text) for role, text in roles.items() if role == "eos_token"]
        return cls.from_backend(backend, path, special_tokens=roles, eos_token_ids=ends, template=template)

    @property
    def vocab_size(self) -> int:
        """Added tokens included. A model may have more rows than that."""
        return len(self.token_bytes)

    def name(self, token_id: int) -> str:
        """As the vocabulary spells it: Ġthe, <0x0A>, ▁a. Empty for an id without a token."""
        return self.backend.id_to_token(token_id) or ""

    def marked(self, text: str, mark: str) -> str:
        """`text` of which, within a longer one, nothing becomes a special token; see `plain_text.py`."""
        return self.plain_text.marked(text, mark)

    def encode(self, text: str, add_special_tokens: bool = True, *, mark: str = "") -> list[int]:
        """The name of a special token in `text` becomes that token, as in transformers, unless `mark` is in it; no mark
        becomes a token. `add_special_tokens`: what the model wants around every text, such as a beginning of text.
        Raises ValueError for what is not Unicode text, for a text that no model has room for, and for one that the
        vocabulary's regular expressions give up on."""
        if not mark or mark not in text:
            return _encode(self.backend, text, add_special_tokens)
        _check(text.replace(mark, ""))
        with _Panics():
            return self.plain_text.encode(text, mark, add_special_tokens)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Raises ValueError for an id that is not in the vocabulary."""
        for token_id in token_ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"token id {token_id} is not in the vocabulary of {self.vocab_size} tokens.")
        (text,) = self.backend.decode_batch([token_ids], skip_special_tokens)  # lets go of the interpreter's lock
        return str(text)


def _encode(backend: tokenizers.Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    _check(text)
    with _Panics():
        return token_ids_of(backend, text, add_special_tokens)


class _Panics:
    """A panic of `tokenizers` is no Exception and has a class that cannot be imported. It becomes a ValueError."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is not None and kind.__name__ == "PanicException":
            raise ValueError("the text is one that the tokenizer's regular expressions give up on.") from error


def _check(text: str) -> None:
    if len(text) > MAX_TEXT_LENGTH:
        raise ValueError(f"the text has {len(text)} characters; at most {MAX_TEXT_LENGTH} can be tokenized.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        raise ValueError(f"the text has half of a surrogate pair, {code}, at character {error.start}.") from error
