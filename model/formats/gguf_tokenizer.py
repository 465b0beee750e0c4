"""The tokenizer and the chat template that a GGUF file carries in its metadata. Byte-level BPE only, with the four
pre-tokenizers below; the ids are llama.cpp's. Reading the file is `gguf_metadata`'s business.

Known differences: llama.cpp's tables are older, so that letters and digits new in Unicode 16 are neither there; and
where the names of two special tokens overlap in a text, llama.cpp takes the longer one, `tokenizers` the first.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from gguf import TokenType
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors

from model.chat_template import ChatTemplate
from model.formats.gguf_ends import read_end_token_ids
from model.formats.gguf_keys import Keys
from model.tokenizer import Tokenizer

_PREFIX = "tokenizer.ggml."
_TEMPLATE_VARIABLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
# How words are cut, as llama.cpp has it (llm_tokenizer_bpe in src/llama-vocab.cpp); the digits of a number go one by
# one with Qwen 2, three by three with Llama 3. The models' own first line, (?i:'s|'t|…), also takes ſ for an s.
_WORDS = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build(metadata: Mapping[str, Any], path: Path) -> Tokenizer:
    """Raises ModelError, naming `path`, for a tokenizer of another kind and for one that contradicts itself."""
    keys = Keys(path, metadata, _PREFIX)
    if keys.text("model") != "gpt2":
        raise keys.error("model", "of GGUF's tokenizers, gpt2 (byte-level BPE) is implemented.")
    tokens = _texts(keys, metadata, "tokens")
    pre_tokenizer = keys.text("pre")
    backend = _byte_pair_encoder(keys, metadata, tokens, ignore_merges=pre_tokenizer == "llama-bpe")
    backend.pre_tokenizer = _pre_tokenizer(keys)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(list(_added_tokens(keys, metadata, tokens)))
    backend.post_processor = _post_processor(keys, metadata, tokens, adds_bos=pre_tokenizer == "llama-bpe")
    return Tokenizer.from_backend(
        backend,
        path,
        special_tokens=_special_tokens(metadata, path),
        eos_token_ids=read_end_token_ids(metadata, path, len(tokens)),
        template=chat_template(metadata, path),
    )


def chat_template(metadata: Mapping[str, Any], path: Path) -> ChatTemplate | None:
    """None for a file without one. Raises ModelError for one that does not compile."""
    keys = Keys(path, metadata, "tokenizer.")
    if "chat_template" not in keys:
        return None
    tool_use = keys.text("chat_template.tool_use") if "chat_template.tool_use" in keys else None
    return ChatTemplate.load(keys.text("chat_template"), _special_tokens(metadata, path), path, tool_use)


def _special_tokens(metadata: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Text by the name that templates know it under."""
    keys = Keys(path, metadata, _PREFIX)
    tokens = _texts(keys, metadata, "tokens")
    ids = {variable: _token_id(keys, name, tokens) for variable, name in _TEMPLATE_VARIABLES.items()}
    return {variable: tokens[token_id] for variable, token_id in ids.items() if token_id is not None}


def _byte_pair_encoder(
    keys: Keys, metadata: Mapping[str, Any], tokens: Sequence[str], ignore_merges: bool
) -> tokenizers.Tokenizer:
    """`ignore_merges`: a whole word that is a token needs no merges, as Llama 3 has it."""
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        twice = next(token for token_id, token in enumerate(tokens) if vocabulary[token] != token_id)
        raise keys.error("tokens", f"the token {twice!r} is there twice.")
    merges = dict.fromkeys(  # of a merge that is there twice, the first counts
        _split(merge, vocabulary, keys) for merge in _texts(keys, metadata, "merges")
    )
    return tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), ignore_merges=ignore_merges))


def _split(merge: str, vocabulary: Mapping[str, int], keys: Keys) -> tuple[str, str]:
    """Two tokens stand in one text with a space between. A token of this kind has no space: it would be spelled Ġ."""
    left, _, right = merge.partition(" ")
    if left in vocabulary and right in vocabulary and left + right in vocabulary:
        return left, right
    raise keys.error("merges", f"{merge!r} is not two tokens of the vocabulary that make a third.")


def _pre_tokenizer(keys: Keys) -> pre_tokenizers.PreTokenizer:
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    by_name: dict[str, list[pre_tokenizers.PreTokenizer]] = {
        "gpt-2": [gpt2],
        "llama-bpe": [pre_tokenizers.Split(Regex(_WORDS % "{1,3}"), "isolated"), to_bytes],
        "qwen2": [pre_tokenizers.Split(Regex(_WORDS % ""), "isolated"), to_bytes],
        "smollm": [pre_tokenizers.Digits(individual_digits=True), gpt2],
    }
    steps = by_name.get(keys.text("pre"))
    if steps is None:
        raise keys.error("pre", f"of GGUF's pre-tokenizers, {', '.join(by_name)} are implemented.")
    return pre_tokenizers.Sequence(steps)


def _added_tokens(keys: Keys, metadata: Mapping[str, Any], tokens: Sequence[str]) -> Iterator[AddedToken]:
    """Tokens that are found in a text before it is cut into words. Only user-defined ones are printed."""
    types = metadata.get(_PREFIX + "token_type")
    if not isinstance(types, list) or len(types) != len(tokens):
        raise keys.error("token_type", f"a list with a type for each of the {len(tokens)} tokens is needed.")
    for token, kind in zip(tokens, types, strict=True):
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN):
            yield AddedToken(token, special=True, normalized=False)
        elif kind == TokenType.USER_DEFINED:
            yield AddedToken(token, special=False, normalized=False)
        elif kind not in (TokenType.NORMAL, TokenType.UNUSED):
            raise keys.error("token_type", f"the token {token!r} has type {kind}, which byte-level BPE does not have.")


def _post_processor(
    keys: Keys, metadata: Mapping[str, Any], tokens: Sequence[str], adds_bos: bool
) -> processors.TemplateProcessing:
    """`adds_bos`: for a file that does not say. `add_space_prefix` is not read: it has no bearing on byte-level BPE, in
    llama.cpp either."""
    around = {
        "bos_token_id": _flag(keys, metadata, "add_bos_token", default=adds_bos),
        "eos_token_id": _flag(keys, metadata, "add_eos_token", default=False),
    }
    added = []
    for name in (name for name, is_added in around.items() if is_added):
        token_id = _token_id(keys, name, tokens)
        if token_id is None:
            raise keys.error(name, "the file says that this token is added to every text.")
        added.append({"id": name, "ids": [token_id], "tokens": [tokens[token_id]]})
    before, behind = ([token["id"] for token in added if token["id"] == name] for name in around)
    return processors.TemplateProcessing(single=[*before, "$A", *behind], special_tokens=added)


def _token_id(keys: Keys, name: str, tokens: Sequence[str]) -> int | None:
    return keys.integer(name, least=0, most=len(tokens) - 1) if name in keys else None


def _texts(keys: Keys, metadata: Mapping[str, Any], name: str) -> list[str]:
    value = metadata.get(_PREFIX + name)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise keys.error(name, "a list of texts is needed.")
    return value


def _flag(keys: Keys, metadata: Mapping[str, Any], name: str, default: bool) -> bool:
    value = metadata.get(_PREFIX + name, default)
    if not isinstance(value, bool):
        raise keys.error(name, "true or false is needed.")
    return value
