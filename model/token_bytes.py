"""What bytes each token stands for, so that text can be put together token by token: a token may hold part of a
character, and the decoder of `tokenizers` gives whole texts only. Written for the decoders that language models use;
any other is refused by name.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from model.errors import ModelError

_MAX_HOLES = 65536  # ids without a token; models leave a few hundred, damaged files billions
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


def token_bytes(backend: Tokenizer, path: Path) -> tuple[bytes, ...]:
    """The bytes of each id; b"" where there is no token. Joined and decoded as UTF-8, with U+FFFD for what is not, they
    are the text that the backend decodes; but SentencePiece's decoders also take away a space at the beginning of a
    text, which an answer, being the continuation of one, needs. Raises ModelError."""
    spell = _speller(backend, path)
    vocabulary = backend.get_vocab(with_added_tokens=True)
    size = max(vocabulary.values(), default=-1) + 1
    if size > len(vocabulary) + _MAX_HOLES:
        raise ModelError(path, f"the vocabulary has {len(vocabulary)} tokens, but ids up to {size - 1}.")
    table = [b""] * size
    for token, token_id in vocabulary.items():
        table[token_id] = spell(token)
    return tuple(table)


def _speller(backend: Tokenizer, path: Path) -> Callable[[str], bytes]:
    if backend.decoder is None:
        raise ModelError(path, "the tokenizer has no decoder; one of ByteLevel, ByteFallback or Metaspace is needed.")
    decoder = json.loads(backend.decoder.__getstate__())
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    if [step["type"] for step in steps] == ["ByteLevel"]:
        return _byte_level_speller()
    return _sentencepiece_speller(steps, path)


def _byte_level_speller() -> Callable[[str], bytes]:
    alphabet = _byte_alphabet()

    def spell(token: str) -> bytes:
        try:
            return bytes([alphabet[character] for character in token])
        except KeyError:  # an added token, which is spelled as it is
            return token.encode()

    return spell


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes as characters: a visible character of Latin-1 is its own byte, and the others, in their
    order, are the characters from U+0100 on (bytes_to_unicode in openai/gpt-2, src/encoder.py)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(0x100)) - set(visible))
    return {chr(byte): byte for byte in visible} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def _sentencepiece_speller(steps: list[Mapping[str, Any]], path: Path) -> Callable[[str], bytes]:
    replaced: dict[int, str] = {}
    has_byte_tokens = is_fused = False
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if len(old) == 1:
                replaced[ord(old)] = new
            case {"type": "Metaspace", "replacement": str(old)}:
                replaced[ord(old)] = " "
            case {"type": "ByteFallback"}:
                has_byte_tokens = True
            case {"type": "Fuse"}:
                is_fused = True
            case {"type": "Strip", "stop": 0} if is_fused:
                pass  # only the beginning of a text
            case _:
                known = "ByteLevel, Metaspace, and sequences of Replace (one character), ByteFallback, Fuse and Strip"
                raise ModelError(path, f"the tokenizer's decoder has {json.dumps(step)}; implemented are {known}.")

    def spell(token: str) -> bytes:
        byte = _BYTE_TOKEN.fullmatch(token) if has_byte_tokens else None
        return bytes.fromhex(byte[1]) if byte else token.translate(replaced).encode()

    return spell
