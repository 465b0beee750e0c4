import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from model.default_model import find_or_fetch
from model.errors import ModelError
from model.formats.gguf_metadata import read_metadata
from model.formats.gguf_tokenizer import build, chat_template
from model.tokenizer import Tokenizer
from tests.model.tokenizer_folders import mixed_lines, published_words, recorded

PATH = Path("small.gguf")
SMALL = "llama_server_small_vocabulary.jsonl"
GPT2_WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)

# The same four, as the models' own tokenizer.json has them.
PUBLISHED = {
    "gpt-2": GPT2_WORDS,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2_WORDS]),
    "qwen2": published_words(""),
    "llama-bpe": published_words("{1,3}"),
}


def small_metadata(pre_tokenizer: str = "gpt-2", **changes: Any) -> dict[str, Any]:
    """Of the models whose ids were recorded. A change to None takes a key away."""
    head, _ = recorded(SMALL)
    keys = {
        "model": "gpt2",
        "pre": pre_tokenizer,
        "tokens": head["tokens"],
        "token_type": head["token_type"],
        "merges": head["merges"],
        "bos_token_id": head["tokens"].index("<|im_start|>"),
        "eos_token_id": head["tokens"].index("<|im_end|>"),
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (keys | changes).items() if value is not None}


def default_model() -> Tokenizer:
    path = find_or_fetch()
    return build(read_metadata(path), path)


def test_the_default_model_gives_the_ids_that_llama_server_gives():
    tokenizer = default_model()
    _, lines = recorded("llama_server_tokens.jsonl")

    assert len(lines) == 500
    for line in lines:
        assert tokenizer.encode(line["text"]) == line["ids"], line["text"]


def test_a_byte_that_is_no_token_is_dropped_as_llama_server_drops_it():
    assert default_model().encode("a\x04b") == default_model().encode("a") + default_model().encode("b")


def test_the_default_model_s_special_tokens():
    tokenizer = default_model()

    assert (tokenizer.vocab_size, tokenizer.eos_token_ids) == (49152, {0, 2})  # <|endoftext|> and <|im_end|>
    assert tokenizer.special_token_ids == set(range(17))
    assert (tokenizer.token_bytes[1], tokenizer.token_bytes[6004]) == (b"<|im_start|>", b"hi")


@pytest.mark.parametrize("pre_tokenizer", PUBLISHED)
def test_each_pre_tokenizer_gives_the_ids_that_llama_server_gives(pre_tokenizer):
    tokenizer = build(small_metadata(pre_tokenizer), PATH)

    for line in recorded(SMALL)[1]:
        ids = tokenizer.encode(line["text"], add_special_tokens=False)
        assert ids == line["ids"][pre_tokenizer], line["text"]
        assert tokenizer.decode(ids) == line["text"]


@pytest.mark.parametrize("pre_tokenizer", PUBLISHED)
def test_each_pre_tokenizer_gives_the_ids_of_the_published_pipeline(pre_tokenizer):
    head, _ = recorded(SMALL)
    vocabulary = {token: token_id for token_id, token in enumerate(head["tokens"])}
    merges = [tuple(merge.split()) for merge in head["merges"]]
    published = Backend(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre_tokenizer == "llama-bpe"))
    published.pre_tokenizer = PUBLISHED[pre_tokenizer]
    kinds = zip(head["tokens"], head["token_type"], strict=True)
    published.add_tokens(
        [AddedToken(token, normalized=False, special=kind != 4) for token, kind in kinds if 2 <= kind <= 4]
    )
    tokenizer = build(small_metadata(pre_tokenizer), PATH)

    for line in mixed_lines():
        assert tokenizer.encode(line, add_special_tokens=False) == published.encode(line).ids, line


def test_types_of_tokens():
    """Control and unknown tokens are special; user-defined ones are found in a text all the same, and printed."""
    tokenizer = build(small_metadata(), PATH)
    tokens = recorded(SMALL)[0]["tokens"]
    special = {tokens[token_id] for token_id in tokenizer.special_token_ids}
    ids = tokenizer.encode("a<think>b two words<|im_end|>日本[PAD0]")

    assert special == {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<unk>"}
    assert [tokens.index(name) in ids for name in ("<think>", "two words", "<|im_end|>", "日本")] == [True] * 4
    assert tokens.index("[PAD0]") not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<think>b two words日本[PAD0]"


@pytest.mark.parametrize(
    ("pre_tokenizer", "changes", "before", "behind"),
    [
        ("gpt-2", {}, [], []),
        ("qwen2", {"add_bos_token": True}, ["<|im_start|>"], []),
        ("llama-bpe", {}, ["<|im_start|>"], []),  # the only one whose files need not say
        ("llama-bpe", {"add_bos_token": False, "add_eos_token": True}, [], ["<|im_end|>"]),
        ("smollm", {"add_bos_token": True, "add_eos_token": True}, ["<|im_start|>"], ["<|im_end|>"]),
    ],
)
def test_tokens_around_a_text(pre_tokenizer, changes, before, behind):
    tokenizer = build(small_metadata(pre_tokenizer, **changes), PATH)
    tokens = recorded(SMALL)[0]["tokens"]

    assert [tokens[token_id] for token_id in tokenizer.encode("%")] == [*before, "%", *behind]
    assert [tokens[token_id] for token_id in tokenizer.encode("%", add_special_tokens=False)] == ["%"]


def test_the_ends_of_text_turn_and_message_end_a_text():
    tokens = recorded(SMALL)[0]["tokens"]
    changes = {"eot_token_id": tokens.index("<unk>"), "eom_token_id": 7}
    tokenizer = build(small_metadata(**changes), PATH)

    called_so = {tokens.index("<|im_end|>"), tokens.index("<|endoftext|>")}
    assert tokenizer.eos_token_ids == {*called_so, tokens.index("<unk>"), 7}


def test_the_end_of_a_turn_in_the_template_ends_a_text():
    tokens = recorded(SMALL)[0]["tokens"]
    metadata = small_metadata() | {"tokenizer.chat_template": "{{ messages[-1].content }}<|im_start|>"}

    assert tokens.index("<|im_start|>") in build(metadata, PATH).eos_token_ids
    assert tokens.index("<|im_start|>") not in build(small_metadata(), PATH).eos_token_ids


def test_a_merge_that_is_there_twice_counts_where_it_is_first():
    changes = {"tokens": ["a", "b", "c", "ab", "bc"], "token_type": [1] * 5, "merges": ["b c", "a b", "b c"]}
    backend = build(small_metadata(bos_token_id=None, eos_token_id=None, **changes), PATH).backend

    assert json.loads(backend.to_str())["model"]["merges"] == [["b", "c"], ["a", "b"]]


def test_a_merge_of_a_million_spaces_is_refused_in_a_few_words():
    """In one pass: to try each of the spaces would take hours."""
    spaces = " " * 1_000_000
    changes = {"tokens": ["a", spaces], "token_type": [1, 1], "merges": [spaces + "x"]}

    with pytest.raises(ModelError, match="is not two tokens of the vocabulary that make a third") as error:
        build(small_metadata(bos_token_id=None, eos_token_id=None, **changes), PATH)
    assert len(str(error.value)) < 1100


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": "llama"}, "'tokenizer.ggml.model' is 'llama'; of GGUF's tokenizers, gpt2"),
        ({"model": None}, "'tokenizer.ggml.model' is missing"),
        ({"pre": "deepseek-v3"}, "'deepseek-v3'; .* gpt-2, llama-bpe, qwen2, smollm are implemented"),
        ({"pre": "default"}, "'default'"),
        ({"pre": None}, "'tokenizer.ggml.pre' is missing"),
        ({"tokens": None}, "'tokenizer.ggml.tokens' is missing"),
        ({"tokens": [1, 2]}, "a list of texts"),
        ({"tokens": ["a", "b", "a"]}, "the token 'a' is there twice"),
        ({"merges": None}, "'tokenizer.ggml.merges' is missing"),
        ({"merges": ["a b", "a b c"]}, "'a b c' is not two tokens"),
        ({"merges": ["ab"]}, "'ab' is not two tokens"),
        ({"merges": ["a q"]}, "'a q' is not two tokens of the vocabulary that make a third"),
        ({"merges": ["b a"]}, "'b a' is not two tokens"),  # ba is no token
        ({"token_type": None}, "'tokenizer.ggml.token_type' is missing; a list with a type for each of the 4"),
        ({"token_type": [1]}, "a list with a type for each of the 4"),
        ({"token_type": [1, 1, 1, 6]}, "the token '<end>' has type 6"),
        ({"token_type": [1, 1, 0, 3]}, "the token 'ab' has type 0"),
        ({"bos_token_id": 4, "add_bos_token": True}, "'tokenizer.ggml.bos_token_id' is 4"),
        ({"eos_token_id": -1}, "'tokenizer.ggml.eos_token_id' is -1"),
        ({"add_bos_token": True}, "'tokenizer.ggml.bos_token_id' is missing; the file says"),
        ({"add_eos_token": 1}, "'tokenizer.ggml.add_eos_token' is 1; true or false"),
    ],
)
def test_metadata_that_cannot_be_followed_are_refused_by_name(changes, problem):
    sound = {
        "tokens": ["a", "b", "ab", "<end>"],
        "token_type": [1, 1, 1, 3],
        "merges": ["a b"],
        "bos_token_id": None,
        "eos_token_id": 3,
    }
    assert build(small_metadata(**sound), PATH).encode("ab<end>") == [2, 3]

    with pytest.raises(ModelError, match=problem) as error:
        build(small_metadata(**sound | changes), PATH)
    assert error.value.path == PATH


def test_the_template_knows_the_special_tokens():
    source = "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ pad_token is defined }}"
    metadata = small_metadata(unknown_token_id=5) | {"tokenizer.chat_template": source}
    template = chat_template(metadata, PATH)

    assert template is not None
    assert template.render([{"role": "user", "content": ""}]) == "<|im_start|>|<|im_end|>|&|False"


def test_a_template_for_tools_is_used_where_tools_are_given():
    sources = {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "tools"}
    template = chat_template(small_metadata() | sources, PATH)

    assert template is not None
    assert template.render([{}]) == "plain"
    assert template.render([{}], tools=[]) == "tools"


def test_a_file_without_a_template_has_none():
    assert chat_template(small_metadata(), PATH) is None


@pytest.mark.parametrize(("source", "problem"), [("a\n{% if %}", "line 2"), (5, "a text is needed")])
def test_a_broken_template_is_refused_by_name(source, problem):
    with pytest.raises(ModelError, match=problem):
        chat_template(small_metadata() | {"tokenizer.chat_template": source}, PATH)


@pytest.mark.parametrize("pre_tokenizer", ["qwen2", "llama-bpe"])
def test_contractions_are_cut_off_in_capitals_too(pre_tokenizer):
    text = "x'Sam I'LLy x'ſam"  # the models' own expression would cut the last one, llama.cpp's does not
    pieces = build(small_metadata(pre_tokenizer), PATH).backend.pre_tokenizer.pre_tokenize_str(text)

    assert [text[start:end] for _, (start, end) in pieces] == ["x", "'S", "am", " I", "'LL", "y", " x", "'ſam"]
