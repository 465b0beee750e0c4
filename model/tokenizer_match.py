"""What a tokenizer has to do with the weights: whether it has a token for each of their rows; whether it is the one of
their era, as far as MiniMind's are known by their vocabularies; and where a text ends if no file says it.

Every era of MiniMind has 6400 tokens, so that the weights of one with the tokenizer of another load, run and talk
nonsense. Weights say no more of their tokenizer than their era. The vocabularies are those of the project's own history
(jingyaogong/minimind): 2024 to April 2025, April 2025 to January 2026, and since March 2026.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from types import MappingProxyType

from model.errors import ModelError
from model.formats.checkpoint import Checkpoint
from model.formats.minimind_eras import EARLY_2, V1, V2, V3
from model.tokenizer import Tokenizer

NUM_TOKENS = 6400
END_OF_TEXT = 2  # </s> or <|im_end|>


class Vocabulary(Enum):
    """The value: SHA-256 of the names of all tokens in the order of their ids, a line break between two. The first two
    differ in the names of ids 0 to 2 alone, which are in their prompts; of the third nearly all is new, <think> too."""

    V1 = "fa3b3211ccc51ea0a7e73426091516de7dd8aa830fa893570c009f25cd0514df"
    V2 = "6f441780b65101935d21bca75bea07159037a3e797abd50cd4a1ec533612b580"
    V3 = "52623093cf7ed57d31d94f90431e985408b2e0531344e57c3090cad34be19046"


OWNERS: Mapping[Vocabulary, str] = MappingProxyType(
    {
        Vocabulary.V1: "MiniMind-v1 and of MiniMind2 of early 2025",
        Vocabulary.V2: "MiniMind2 since April 2025",
        Vocabulary.V3: "MiniMind-3",
    }
)
BY_ORIGIN: Mapping[str, frozenset[Vocabulary]] = MappingProxyType(
    {
        V1.name: frozenset({Vocabulary.V1}),
        EARLY_2.name: frozenset({Vocabulary.V1}),
        V2.name: frozenset({Vocabulary.V2}),
        V3.name: frozenset({Vocabulary.V3}),
    }
)
# What exports are written as: as Llama all that was before MiniMind-3.
BY_ARCHITECTURE: Mapping[str, frozenset[Vocabulary]] = MappingProxyType(
    {
        "llama": frozenset({Vocabulary.V1, Vocabulary.V2}),
        "qwen3": frozenset({Vocabulary.V3}),
        "qwen3moe": frozenset({Vocabulary.V3}),
    }
)


def check_match(checkpoint: Checkpoint, tokenizer: Tokenizer, *, is_named: bool) -> None:
    """Raises ModelError where `tokenizer` is MiniMind's, and of another era than the weights. Of an export the era is
    not known, only what its architecture leaves possible: it is believed, with the tokenizer that it came with, and
    checked where the user has named another (`is_named`). A vocabulary that is none of MiniMind's matches: people train
    their own."""
    found = vocabulary_of(tokenizer)
    expected = _expected(checkpoint, is_named=is_named)
    if found is None or not expected or found in expected:
        return
    is_own = checkpoint.origin in BY_ORIGIN
    weights = checkpoint.origin if is_own else f"a {checkpoint.config.architecture} model with {NUM_TOKENS} tokens"
    first = ", ".join(tokenizer.name(token_id) for token_id in range(3))
    right = " or ".join(f"that of {OWNERS[vocabulary]}" for vocabulary in Vocabulary if vocabulary in expected)
    raise ModelError(
        checkpoint.path,
        f"these are weights of {weights}, which go with another tokenizer: {right}. The one given is that of "
        f"{OWNERS[found]} (its first tokens: {first}); its tokens and prompts are not those that the model was taught. "
        "--tokenizer FOLDER names the right one; --allow-tokenizer-mismatch takes this one all the same.",
    )


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary | None:
    """None for one that is not MiniMind's."""
    if tokenizer.backend.get_vocab_size(with_added_tokens=True) != NUM_TOKENS:
        return None
    names = "\n".join(map(tokenizer.name, range(NUM_TOKENS)))
    digest = hashlib.sha256(names.encode()).hexdigest()
    return next((vocabulary for vocabulary in Vocabulary if vocabulary.value == digest), None)


def fit_vocabulary(tokenizer: Tokenizer, checkpoint: Checkpoint) -> Tokenizer:
    """A tokenizer with an entry for each id that the model can choose. Models have rows to spare, rounded up to a
    multiple of 64 or more; like vLLM and llama.cpp we let them be chosen, which training makes all but impossible, and
    they print nothing. The other way about, a token without a row, the model cannot be given: ModelError."""
    num_rows, num_tokens = checkpoint.config.vocab_size, tokenizer.vocab_size
    if num_tokens > num_rows:
        raise ModelError(
            checkpoint.path,
            f"the tokenizer has {num_tokens} tokens, but the model's embedding only {num_rows} rows; "
            "this is not the tokenizer that it was trained with.",
        )
    return replace(tokenizer, token_bytes=(*tokenizer.token_bytes, *[b""] * (num_rows - num_tokens)))


def ends_of_text(checkpoint: Checkpoint, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end a text, as the tokenizer and the model's files have it. MiniMind's weights and exports name
    none; where its tokenizer came without the file that does, it is the one of all eras, and of the tokenizers that
    people train with its script."""
    named = tokenizer.eos_token_ids | checkpoint.eos_token_ids
    is_minimind = checkpoint.origin in BY_ORIGIN or vocabulary_of(tokenizer) is not None
    return named or frozenset({END_OF_TEXT} if is_minimind else ())


def _expected(checkpoint: Checkpoint, *, is_named: bool) -> frozenset[Vocabulary]:
    """Empty: nothing is known."""
    if checkpoint.origin in BY_ORIGIN:
        return BY_ORIGIN[checkpoint.origin]
    if is_named and checkpoint.config.vocab_size == NUM_TOKENS:
        return BY_ARCHITECTURE.get(checkpoint.config.architecture, frozenset())
    return frozenset()
