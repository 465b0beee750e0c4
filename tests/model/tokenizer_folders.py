"""The 500 lines on which tokenizers are compared, small tokenizers trained on them, and folders of tokenizers, written
by transformers where it can."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

DATA = Path(__file__).parent / "data"
MORE_LINES = ["", "</s>Hello", "Hello</s> there</s>", "▁ and ▁x", "<|eot_id|>\n\n<|eot_id|>"]

# As Llama 3 and Qwen 2 publish it in their tokenizer.json; the digits are what differs.
PUBLISHED_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def recorded(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The head of a fixture, which says how it was made, and its lines."""
    head, *lines = (json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines())
    return head, lines


@cache
def mixed_lines() -> tuple[str, ...]:
    return tuple(line["text"] for line in recorded("llama_server_tokens.jsonl")[1])


def published_words(digits: str) -> pre_tokenizers.PreTokenizer:
    """`digits`: how many of a number's go together, "{1,3}" or ""."""
    split = pre_tokenizers.Split(Regex(PUBLISHED_WORDS % digits), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(pre_tokenizer: pre_tokenizers.PreTokenizer, added: Sequence[AddedToken | str] = ()) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False, max_token_length=12)
    tokenizer.train_from_iterator([line for line in mixed_lines() if "<" not in line], trainer)
    tokenizer.add_tokens(list(added))
    return tokenizer


def sentencepiece() -> Tokenizer:
    """As Llama 2's tokenizer.json: words begin with ▁, and a character that is no token goes byte by byte."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<unk>", "<s>", "</s>", *byte_tokens],
        limit_alphabet=150,
        max_token_length=8,
        show_progress=False,
    )
    tokenizer.train_from_iterator([line for line in mixed_lines() if "<" not in line], trainer)
    source = json.loads(tokenizer.to_str())
    source["added_tokens"] = [token for token in source["added_tokens"] if token["content"] not in byte_tokens]
    tokenizer = Tokenizer.from_str(json.dumps(source))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def save(tokenizer: Tokenizer, path: Path, **config: Any) -> Path:
    """A folder as published by hand: tokenizer.json and tokenizer_config.json."""
    path.mkdir(exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def save_like_llama3(path: Path) -> Path:
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = byte_level(published_words("{1,3}"), [AddedToken(name, special=True) for name in names])
    first = names[0]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{first} $A", special_tokens=[(first, tokenizer.token_to_id(first))]),
        ]
    )
    saved = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=first, eos_token="<|eot_id|>")
    saved.save_pretrained(path)
    return path


def save_like_qwen2(path: Path) -> Path:
    model = json.loads(byte_level(published_words("")).to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    saved = Qwen2Tokenizer(vocab=model["vocab"], merges=merges, eos_token="<|im_end|>")
    saved.add_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<tool_call>", special=False)])
    saved.save_pretrained(path)
    return path


def save_as_llama(**config: Any) -> Callable[[Path], Path]:
    """What transformers rebuilds as its LlamaTokenizer."""
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    return lambda path: save(sentencepiece(), path, **named | config)
