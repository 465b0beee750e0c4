"""Text of which only a part may name special tokens: a chat's prompt, where they are the template's to write, and what
people wrote into the messages is text and nothing else.

`marked` is done to every text of theirs before the template sees it, `encode` to the prompt that the template made. A
mark stands inside each name of a special token in what they wrote, and in what could become one with text behind it;
so the names that are whole are the template's. A second tokenizer, which knows special tokens only by secret names,
then reads all of the prompt in one piece, without the marks: texts that name no special token have the ids that they
would have had. Tags that whoever reads an answer needs (`<think>`) are no guarded names: clients send them back.
"""

import json
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from functools import partial

import tokenizers

QUICK_LENGTH = 4096  # characters that are read in some milliseconds at the worst


def token_ids_of(backend: tokenizers.Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    """A long text is read without the interpreter's lock, so that no other thread, the event loop's least of all, waits
    for it: `tokenizers` keeps the lock in `encode` (for 0.9 s of a megabyte) and lets go of it for a batch."""
    if len(text) <= QUICK_LENGTH:
        ids: list[int] = backend.encode(text, add_special_tokens=add_special_tokens).ids
    else:
        (encoding,) = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids = encoding.ids
    return ids


class PlainText:
    """`guarded`: the special tokens that only templates write, id by name. May be used by several threads."""

    def __init__(self, backend: tokenizers.Tokenizer, guarded: Mapping[str, int]) -> None:
        self._backend = backend
        self._guarded = guarded
        self._name = _any_of(guarded)
        self._beginnings = frozenset(name[:end] for name in guarded for end in range(1, len(name)))
        self._longest = max(map(len, guarded), default=0)
        self._secret: _SecretNames | None = None
        self._lock = threading.Lock()

    def marked(self, text: str, mark: str) -> str:
        if self._name.search(text):
            text = self._name.sub(lambda match: match[0][0] + mark + match[0][1:], text)
        shown = text.rstrip()  # templates trim
        for length in range(min(self._longest, len(shown)), 0, -1):
            if shown[-length:] in self._beginnings:
                start = len(shown) - length + 1
                return text[:start] + mark + text[start:]
        return text

    def encode(self, text: str, mark: str, add_special_tokens: bool) -> list[int]:
        """Raises ValueError if a name in what people wrote becomes a special token all the same."""
        with self._lock:
            if self._secret is None:
                self._secret = _SecretNames(self._backend, self._guarded)
        return self._secret.encode(text, mark, add_special_tokens)


class _SecretNames:
    """A copy of a tokenizer in which special tokens have names that nobody can write."""

    def __init__(self, backend: tokenizers.Tokenizer, guarded: Mapping[str, int]) -> None:
        added = {token.content: token_id for token_id, token in backend.get_added_tokens_decoder().items()}
        self._names = sorted(added, key=len, reverse=True)
        self._secrets = {name: f"<{secrets.token_hex(16)}>" for name in guarded}
        self._backend = _renamed(backend, self._secrets)
        originals = {self._secrets.get(name, name): token_id for name, token_id in added.items()}
        renamed = self._backend.get_added_tokens_decoder().items()
        self._ids = {token_id: originals[token.content] for token_id, token in renamed}
        self._guarded_ids = frozenset(guarded.values())

    def encode(self, text: str, mark: str, add_special_tokens: bool) -> list[int]:
        written: list[str] = []

        def secret(match: re.Match[str]) -> str:
            name = match[0]
            if name in self._secrets:
                written.append(name)
            return self._secrets.get(name, name)

        pattern = re.compile(f"(?:{'|'.join(map(re.escape, self._names))})(?!{mark})")
        plain = pattern.sub(secret, text).replace(mark, "")
        encode = partial(token_ids_of, self._backend, plain)
        bare = [self._ids.get(token_id, token_id) for token_id in encode(add_special_tokens=False)]
        if sum(token_id in self._guarded_ids for token_id in bare) != len(written):
            raise ValueError("the text names a special token in a way that cannot be read as text.")
        if not add_special_tokens:
            return bare
        return [self._ids.get(token_id, token_id) for token_id in encode(add_special_tokens=True)]


def _renamed(backend: tokenizers.Tokenizer, names: Mapping[str, str]) -> tokenizers.Tokenizer:
    source = json.loads(backend.to_str())
    source["added_tokens"] = [token for token in source["added_tokens"] if token["content"] not in names]
    copy = tokenizers.Tokenizer.from_str(json.dumps(source))
    for token in backend.get_added_tokens_decoder().values():
        if token.content in names:
            flags = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip")}
            copy.add_special_tokens([tokenizers.AddedToken(names[token.content], normalized=False, **flags)])
    return copy


def _any_of(names: Mapping[str, int] | Sequence[str]) -> re.Pattern[str]:
    """The longest that fits; of no names, nothing."""
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
