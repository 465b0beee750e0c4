"""Which tokens of a GGUF file end an answer.

A file names an end of text under a key, and often no more, though its model was taught several ends. llama.cpp then
goes by the names of tokens (`special_eog_ids` in its src/llama-vocab.cpp), and so do we. Of its names these are not
taken: those of models that are not served here, and the marks of a prompt with a gap to fill, which no Hugging Face
config counts as ends.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gguf import TokenType

from model.formats.gguf_keys import Keys

_PREFIX = "tokenizer.ggml."
_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")  # the ends of text, of turn, and of message
_NAMES = frozenset(
    ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]")
    + ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<end_of_utterance>", "<EOT>", "_<EOT>", "[EOT]")
    + ("<|eom_id|>",)
)


def read_end_token_ids(metadata: Mapping[str, Any], path: Path, vocab_size: int) -> frozenset[int]:
    """Raises ModelError, naming `path`, for a key whose id is not in the vocabulary."""
    keys = Keys(path, metadata, _PREFIX)
    named = (keys.integer(key, least=0, most=vocab_size - 1) for key in _KEYS if key in keys)
    return frozenset(named).union(_control_tokens_called_so(metadata))


def _control_tokens_called_so(metadata: Mapping[str, Any]) -> Iterator[int]:
    """None in a file without a tokenizer; that the two lists fit each other is `gguf_tokenizer`'s to check."""
    tokens, types = (metadata.get(_PREFIX + name) for name in ("tokens", "token_type"))
    if isinstance(tokens, list) and isinstance(types, list):
        pairs = enumerate(zip(tokens, types, strict=False))
        yield from (token_id for token_id, (token, kind) in pairs if kind == TokenType.CONTROL and token in _NAMES)
