"""Ends of an answer by key and by name."""

from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from model.errors import ModelError
from model.formats.gguf_ends import read_end_token_ids

PATH = Path("model.gguf")
CONTROL, NORMAL, USER_DEFINED = TokenType.CONTROL, TokenType.NORMAL, TokenType.USER_DEFINED


def metadata(**keys: Any) -> dict[str, Any]:
    return {f"tokenizer.ggml.{name}": value for name, value in keys.items()}


def test_every_end_that_has_a_key_ends_an_answer() -> None:
    ids = metadata(eos_token_id=2, eot_token_id=95, bos_token_id=1)
    assert read_end_token_ids(ids, PATH, vocab_size=96) == {2, 95}
    assert read_end_token_ids(metadata(eom_token_id=0), PATH, vocab_size=96) == {0}
    assert read_end_token_ids({}, PATH, vocab_size=96) == frozenset()
    with pytest.raises(ModelError, match=r"^model\.gguf: .*'tokenizer\.ggml\.eot_token_id' is 95; .* 0 to 94"):
        read_end_token_ids(ids, PATH, vocab_size=95)


def test_control_tokens_that_are_called_an_end_are_one() -> None:
    """As llama.cpp has it; here with the special tokens of Qwen 2.5 and Llama 3 together."""
    names = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|fim_pad|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end_of_text|>",
    ]
    keys = metadata(tokens=["a", *names], token_type=[NORMAL] + [CONTROL] * len(names), eos_token_id=3)
    assert read_end_token_ids(keys, PATH, vocab_size=8) == {1, 3, 5, 6, 7}


def test_a_word_that_is_called_an_end_is_none() -> None:
    keys = metadata(tokens=["</s>", "<eos>", "<EOT>"], token_type=[NORMAL, USER_DEFINED, CONTROL])
    assert read_end_token_ids(keys, PATH, vocab_size=3) == {2}


@pytest.mark.parametrize("keys", [{"tokens": ["</s>"]}, {"tokens": "</s>", "token_type": [3]}, {"token_type": [3]}])
def test_without_a_tokenizer_no_name_counts(keys: dict[str, Any]) -> None:
    assert read_end_token_ids(metadata(**keys), PATH, vocab_size=1) == frozenset()
