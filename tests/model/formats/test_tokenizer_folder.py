import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, pre_tokenizers
from transformers import AutoTokenizer

from model.errors import ModelError
from model.formats.tokenizer_folder import FolderConfig, read_backend
from tests.model.tokenizer_folders import byte_level, save

TEXT = "x <a> <b>  <c>y<d> the <eos> in"


def write(path: Path, added: list[AddedToken], special_tokens_map: dict | None = None, **config) -> FolderConfig:
    save(byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), added), path, **config)
    if special_tokens_map is not None:
        (path / "special_tokens_map.json").write_text(json.dumps(special_tokens_map))
    return FolderConfig.read(path)


def saved(content: str, **flags) -> dict:
    return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": False, "rstrip": False} | flags


@pytest.mark.parametrize(
    "config",
    [
        {"eos_token": "<eos>"},
        {"eos_token": saved("<eos>", single_word=False)},
        {"eos_token": "<eos>", "pad_token": None, "unk_token": "<a>", "add_bos_token": True, "last_token": 5},
        {"eos_token": "the", "bos_token": "in"},  # tokens of the vocabulary become special
        {"extra_special_tokens": ["<a>", "<b>"]},
        {"additional_special_tokens": ["<a>", saved("<c>", lstrip=True)]},
        {"additional_special_tokens": ["<a>"], "extra_special_tokens": ["<b>"]},
        {"extra_special_tokens": {"image_token": "<a>"}, "video_token": "<b>"},
        {"model_specific_special_tokens": {"image_token": "<a>"}},
        {"added_tokens_decoder": {"801": saved("<b>", special=True), "90": saved("<a>", special=False, rstrip=True)}},
        {"added_tokens_decoder": {"700": saved("<d>", special=True)}},  # tokenizer.json says that it is not
        {"added_tokens_decoder": {"700": saved("<d>", special=False, lstrip=True)}, "eos_token": "<d>"},
        {"added_tokens_decoder": {"700": saved("<d>", special=False)}, "eos_token": "<d>"},
        {"added_tokens_decoder": {}, "eos_token": "<d>"},
        {"eos_token": "<d>"},
        {"image_token": "<d>", "video_token": saved("<c>")},
    ],
)
def test_tokens_of_the_config_are_added_as_transformers_adds_them(config, tmp_path):
    backend = read_backend(write(tmp_path, [AddedToken("<d>", special=False, normalized=False)], **config))
    oracle = AutoTokenizer.from_pretrained(tmp_path)

    assert backend.encode(TEXT).ids == oracle.encode(TEXT)
    assert {str(t): t.special for t in backend.get_added_tokens_decoder().values()} == {
        str(t): t.special for t in oracle.added_tokens_decoder.values()
    }
    assert FolderConfig.read(tmp_path).special_tokens == oracle.special_tokens_map


def test_special_tokens_map_counts_where_the_config_numbers_no_tokens(tmp_path):
    roles = {"eos_token": saved("<a>"), "bos_token": "<b>"}

    config = write(tmp_path, [], special_tokens_map=roles, eos_token="<c>")
    assert config.special_tokens == {"eos_token": "<a>", "bos_token": "<b>"}
    assert config.special_tokens == AutoTokenizer.from_pretrained(tmp_path).special_tokens_map

    config = write(tmp_path, [], special_tokens_map=roles, eos_token="<c>", added_tokens_decoder={})
    assert config.special_tokens == {"eos_token": "<c>"}


def test_truncation_and_padding_of_tokenizer_json_have_no_effect(tmp_path):
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    save(tokenizer, tmp_path)

    assert len(read_backend(FolderConfig.read(tmp_path)).encode("qwertyuiop asdfg").ids) > 3
    assert len(read_backend(FolderConfig.read(tmp_path)).encode("q").ids) == 1


def test_a_folder_without_tokenizer_json_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(ModelError, match=r"tokenizer\.json: there is no such file.*save_pretrained"):
        read_backend(FolderConfig.read(tmp_path))


@pytest.mark.parametrize(
    "contents", [b"", b"{", b"[]", b"{}", b"\xff", b'{"version": "1.0", "model": {"type": "New"}}']
)
def test_a_broken_tokenizer_json_is_refused_by_name(contents, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(contents)

    with pytest.raises(ModelError, match=r"tokenizer\.json: "):
        read_backend(FolderConfig.read(tmp_path))


def test_a_tokenizer_json_on_which_the_library_panics_is_refused_by_name(tmp_path):
    write(tmp_path, [])
    source = json.loads((tmp_path / "tokenizer.json").read_text())
    source["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(source))

    with pytest.raises(ModelError, match=r"tokenizer\.json: this is no tokenizer that can be used"):
        read_backend(FolderConfig.read(tmp_path))


def test_half_of_a_surrogate_pair_is_no_token(tmp_path):
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: .*surrogates not allowed"):
        write(tmp_path, [], eos_token="\ud800")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"eos_token": 5}, "5 stands in the place of a token"),
        ({"eos_token": {"text": "<eos>"}}, "stands in the place of a token"),
        ({"eos_token": ""}, "stands in the place of a token"),
        ({"extra_special_tokens": "<a>"}, "extra_special_tokens is"),
        ({"extra_special_tokens": [None]}, "null stands"),
        ({"added_tokens_decoder": ["<a>"]}, "added_tokens_decoder is"),
        ({"added_tokens_decoder": {"first": "<a>"}}, "added_tokens_decoder is"),
        ({"added_tokens_decoder": {"1" * 5000: "<a>"}}, "added_tokens_decoder is"),
        ({"added_tokens_decoder": {"0": {"special": True}}}, "stands in the place of a token"),
        ({"tokenizer_class": 1}, "tokenizer_class is 1"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(config, problem, tmp_path):
    with pytest.raises(ModelError, match=problem) as error:
        read_backend(write(tmp_path, [], **config))
    assert error.value.path == tmp_path / "tokenizer_config.json"


def test_a_broken_config_is_refused_by_name(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{")

    with pytest.raises(ModelError, match=r"tokenizer_config\.json: cannot be read as JSON"):
        FolderConfig.read(tmp_path)


@pytest.mark.parametrize("value", [5, [5], [{"name": "default"}], {"default": "x"}])
def test_chat_templates_of_another_form_are_refused(value, tmp_path):
    with pytest.raises(ModelError, match="chat_template is"):
        _ = write(tmp_path, [], chat_template=value).chat_templates
