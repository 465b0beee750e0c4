from pathlib import Path
from random import Random

import pytest
from tokenizers import AddedToken, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from model.chat_template import ChatTemplate
from model.default_model import find_or_fetch
from model.errors import ModelError
from model.formats import gguf_tokenizer
from model.formats.gguf_metadata import read_metadata
from model.tokenizer import MAX_TEXT_LENGTH, Tokenizer
from tests.model.minimind_data import MINIMIND, TEMPLATE_FILES, golden_lines, needs_minimind, tokenizer_folder
from tests.model.tokenizer_folders import (
    MORE_LINES,
    byte_level,
    mixed_lines,
    save,
    save_as_llama,
    save_like_llama3,
    save_like_qwen2,
    sentencepiece,
)

V3 = MINIMIND / "tokenizers" / "v3"
GPT2_WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)


def default_model() -> Tokenizer:
    path = find_or_fetch()
    return gguf_tokenizer.build(read_metadata(path), path)


def save_default_model(path: Path) -> Path:
    return save(default_model().backend, path, bos_token="<|im_start|>", eos_token="<|im_end|>")


def save_minimind(path: Path) -> Path:
    return V3


def save_minimind_export(path: Path) -> Path:
    return MINIMIND / "hf" / "v3"


FOLDERS = [
    pytest.param(save_minimind, marks=needs_minimind),
    pytest.param(save_minimind_export, marks=needs_minimind),
    save_default_model,
    save_like_llama3,
    save_like_qwen2,
    pytest.param(save_as_llama(), id="llama"),
    pytest.param(save_as_llama(legacy=True), id="llama-legacy"),
    pytest.param(save_as_llama(legacy=False, add_prefix_space=False), id="llama-without-prefix"),
    pytest.param(save_as_llama(add_bos_token=False, add_eos_token=True), id="llama-with-flags-that-have-no-effect"),
    pytest.param(save_as_llama(tokenizer_class="PreTrainedTokenizerFast"), id="sentencepiece-as-it-is"),
]


@pytest.mark.parametrize("save_folder", FOLDERS)
def test_a_folder_gives_the_ids_that_transformers_gives(save_folder, tmp_path):
    path = save_folder(tmp_path)
    ours, theirs = Tokenizer.from_folder(path), AutoTokenizer.from_pretrained(path)

    for line in [*mixed_lines(), *MORE_LINES]:
        assert ours.encode(line) == theirs.encode(line), line
        ids = theirs.encode(line, add_special_tokens=False)
        assert ours.encode(line, add_special_tokens=False) == ids, line
        assert ours.decode(ids) == theirs.decode(ids), line
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True), line
    assert ours.vocab_size == len(theirs)
    assert ours.eos_token_ids == {theirs.eos_token_id}


@needs_minimind
@pytest.mark.parametrize("name", ["v1", "v2", "v3"])
def test_minimind_gives_its_golden_ids_and_texts(name):
    tokenizer = Tokenizer.from_folder(MINIMIND / "tokenizers" / name)
    tokens, decode = (golden_lines(kind, name) for kind in ("tokens", "decode"))

    assert (len(tokens), len(decode)) == (62, 40)
    for line in tokens:
        assert tokenizer.encode(line["text"]) == line["ids"]
        assert tokenizer.encode(line["text"], add_special_tokens=False) == line["ids"]
    for line in tokens + decode:
        assert tokenizer.decode(line["ids"]) == line["decoded"]
        assert tokenizer.decode(line["ids"], skip_special_tokens=True) == line["decoded_skip_special"]


@needs_minimind
@pytest.mark.parametrize("era", TEMPLATE_FILES)
def test_minimind_s_golden_prompts_have_their_golden_ids_and_its_own_end_of_text(era, tmp_path):
    tokenizer = Tokenizer.from_folder(tokenizer_folder(era, tmp_path))

    assert tokenizer.eos_token_ids == {2}
    for line in golden_lines("templates", era):
        assert tokenizer.encode(line["text"], add_special_tokens=False) == line["ids"]


@needs_minimind
@pytest.mark.parametrize("name", ["v1", "v2", "v3"])
def test_bytes_of_tokens_make_minimind_s_golden_texts(name):
    tokenizer = Tokenizer.from_folder(MINIMIND / "tokenizers" / name)

    for line in golden_lines("tokens", name) + golden_lines("decode", name):
        spelled = [tokenizer.token_bytes[token_id] for token_id in line["ids"]]
        assert b"".join(spelled).decode("utf-8", errors="replace") == line["decoded"]


def odd_tokens() -> Tokenizer:
    """Added tokens that the byte alphabet has, has not, and has in part."""
    names = ["two words", "日本", "é", "Ġ«", "a\nb", "½ ", "😀é"]
    added = [AddedToken(name, normalized=False) for name in names] + [AddedToken("<|end|>", special=True)]
    return of_backend(byte_level(GPT2_WORDS, added))


def of_backend(backend: Backend) -> Tokenizer:
    return Tokenizer.from_backend(backend, Path("test"), special_tokens={}, eos_token_ids=[], template=None)


@pytest.mark.parametrize("make", [default_model, odd_tokens])
@pytest.mark.parametrize("skip_special_tokens", [False, True])
def test_bytes_of_tokens_make_the_decoded_text_of_any_ids(make, skip_special_tokens):
    tokenizer, random = make(), Random(7)
    rare = sorted(tokenizer.special_token_ids) + list(range(tokenizer.vocab_size - 9, tokenizer.vocab_size))
    dropped = tokenizer.special_token_ids if skip_special_tokens else frozenset()

    for _ in range(2000):
        ids = [random.randrange(min(400, tokenizer.vocab_size)) for _ in range(random.randrange(12))]
        ids += random.choices(rare, k=random.randrange(3)) + random.choices(range(tokenizer.vocab_size), k=8)
        random.shuffle(ids)
        spelled = b"".join(tokenizer.token_bytes[token_id] for token_id in ids if token_id not in dropped)
        assert spelled.decode("utf-8", errors="replace") == tokenizer.decode(ids, skip_special_tokens), ids


def test_bytes_of_sentencepiece_tokens_make_the_text_with_the_space_before_it():
    tokenizer = of_backend(sentencepiece())

    for line in mixed_lines():
        ids = tokenizer.encode(line, add_special_tokens=False)
        text = b"".join(tokenizer.token_bytes[token_id] for token_id in ids).decode()
        assert text.startswith((" ", "<s>"))
        assert text.removeprefix(" ") == tokenizer.decode(ids)


def test_the_end_of_a_turn_in_the_template_ends_a_text(tmp_path):
    added = [AddedToken(name, special=True) for name in ("<eos>", "<end>", "<other>")]
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }} <end>\n{% endfor %}<other>"
    path = save(byte_level(GPT2_WORDS, added), tmp_path, eos_token="<eos>", chat_template=template)
    tokenizer = Tokenizer.from_folder(path)

    assert {tokenizer.backend.id_to_token(token_id) for token_id in tokenizer.eos_token_ids} == {"<eos>", "<end>"}


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }}.<end>{% endfor %}",  # not at once
        "{% for m in messages %}{{ m.content }}<tool>{% endfor %}",  # not special
        "{{ raise_exception('no') }}",
        "<end>",
        "{{ messages[-1].content }}",
    ],
)
def test_a_template_that_ends_no_turn_with_a_special_token_adds_no_end(template, tmp_path):
    added = [AddedToken("<eos>", special=True), AddedToken("<end>", special=True), AddedToken("<tool>")]
    path = save(byte_level(GPT2_WORDS, added), tmp_path, eos_token="<eos>", chat_template=template)

    assert Tokenizer.from_folder(path).eos_token_ids == {
        Backend.from_file(f"{path}/tokenizer.json").token_to_id("<eos>")
    }


@pytest.mark.parametrize(
    ("behind", "problem"),
    [("{{ '\\ud800' }}", r"half of a surrogate pair, U\+D800"), ("{{ ' ' * 5000000 }}", "5000001 characters")],
)
def test_a_template_that_writes_what_has_no_tokens_behind_an_answer_is_refused(behind, problem, tmp_path):
    path = save(byte_level(GPT2_WORDS), tmp_path, chat_template="{{ messages[-1].content }}." + behind)

    with pytest.raises(ModelError, match=f"behind an answer of the chat template the text has {problem}"):
        Tokenizer.from_folder(path)


def test_without_a_config_no_token_ends_a_text(tmp_path):
    byte_level(GPT2_WORDS).save(str(tmp_path / "tokenizer.json"))

    assert Tokenizer.from_folder(tmp_path).eos_token_ids == frozenset()


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", "\ude00\ud83d"])
def test_half_a_surrogate_pair_is_refused(text):
    with pytest.raises(ValueError, match=r"half of a surrogate pair, U\+D[8-F]..,"):
        odd_tokens().encode(text)


def test_a_text_that_would_break_the_regular_expressions_is_refused():
    with pytest.raises(ValueError, match="4000001 characters"):
        odd_tokens().encode(" " * (MAX_TEXT_LENGTH + 1))


@pytest.mark.parametrize("token_id", [-1, 2**40])
def test_an_id_without_a_token_is_refused(token_id):
    tokenizer = odd_tokens()

    with pytest.raises(ValueError, match=f"token id {token_id} is not in the vocabulary of {tokenizer.vocab_size}"):
        tokenizer.decode([0, token_id])
    with pytest.raises(ValueError, match="vocabulary"):
        tokenizer.decode([tokenizer.vocab_size])
    assert tokenizer.decode([]) == ""


def test_the_end_of_a_turn_comes_from_the_template_given():
    backend = byte_level(GPT2_WORDS, [AddedToken("<end>", special=True)])
    template = ChatTemplate("{{ messages[-1].content }}<end>", {})
    tokenizer = Tokenizer.from_backend(
        backend, Path("test"), special_tokens={}, eos_token_ids=[3, None], template=template
    )

    assert tokenizer.eos_token_ids == {3, backend.token_to_id("<end>")}


def test_tags_of_reasoning_and_tools_are_printed_whatever_the_vocabulary_calls_them():
    added = [AddedToken(name, special=True) for name in ("<end>", "<think>", "</think>", "<tool_call>", "</tool_call>")]
    backend = byte_level(GPT2_WORDS, added)
    tokenizer = Tokenizer.from_backend(
        backend, Path("model"), special_tokens={}, eos_token_ids=[backend.token_to_id("<end>")], template=None
    )

    assert tokenizer.special_token_ids == {backend.token_to_id("<end>")}
