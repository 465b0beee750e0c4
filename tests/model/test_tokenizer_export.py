"""An exported folder is loaded by transformers, and there gives what the model itself gives: ids, texts and chats."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from model import tokenizer_export
from model.chat_template import ChatTemplate
from model.default_model import find_or_fetch
from model.errors import ExportError, ModelError
from model.formats import gguf_tokenizer
from model.load import Parts, read
from model.options import LoadOptions
from model.tokenizer import Tokenizer
from model.tokenizer_export import export_tokenizer, write
from tests.model.gguf_files import small_config, write_gguf
from tests.model.minimind_data import EXPORTS, GOLDEN, MINIMIND, needs_minimind
from tests.model.tokenizer_folders import (
    MORE_LINES,
    mixed_lines,
    recorded,
    save_as_llama,
    save_like_llama3,
    save_like_qwen2,
)

ROOT = Path(__file__).parents[2]
V3 = MINIMIND / "tokenizers" / "v3"
MODEL = SimpleNamespace(config=SimpleNamespace(max_positions=2048))  # what an export asks of a checkpoint
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "of a place", "parameters": {"type": "object", "properties": {}}},
}
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Why is the sky blue?"}],
    [{"role": "system", "content": "Be short. 简短一点"}, {"role": "user", "content": "你好 🙂"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "<|im_end|> c"},
    ],
]


def parts_of(tokenizer: Tokenizer, template: ChatTemplate | None = None) -> Parts:
    return Parts(MODEL, tokenizer, template)  # type: ignore[arg-type]


def folder_parts(path: Path) -> Parts:
    return parts_of(Tokenizer.from_folder(path), ChatTemplate.from_folder(path))


def llama3_gguf() -> Parts:
    """Its texts begin with a token."""
    head, _ = recorded("llama_server_small_vocabulary.jsonl")
    names = {"tokens": head["tokens"], "token_type": head["token_type"], "merges": head["merges"]}
    bos, eos = head["tokens"].index("<|im_start|>"), head["tokens"].index("<|im_end|>")
    keys = {"model": "gpt2", "pre": "llama-bpe", **names, "bos_token_id": bos, "eos_token_id": eos}
    metadata = {f"tokenizer.ggml.{name}": value for name, value in keys.items()}
    return parts_of(gguf_tokenizer.build(metadata, Path("small.gguf")))


SOURCES = [
    pytest.param(lambda path: read(find_or_fetch()), id="default-model"),
    pytest.param(lambda path: llama3_gguf(), id="gguf-with-beginning"),
    pytest.param(lambda path: folder_parts(save_like_llama3(path)), id="llama3"),
    pytest.param(lambda path: folder_parts(save_like_qwen2(path)), id="qwen2"),
    pytest.param(lambda path: folder_parts(save_as_llama()(path)), id="llama"),
    pytest.param(lambda path: folder_parts(save_as_llama(legacy=True)(path)), id="llama-legacy"),
    pytest.param(lambda path: folder_parts(V3), id="minimind", marks=needs_minimind),
    pytest.param(lambda path: folder_parts(EXPORTS / "v3"), id="minimind-export", marks=needs_minimind),
]


@pytest.mark.parametrize("source", SOURCES)
def test_transformers_makes_of_the_folder_what_the_model_makes(source, tmp_path):
    parts = source(tmp_path / "source")
    write(parts, tmp_path / "export")
    ours, theirs = parts.tokenizer, AutoTokenizer.from_pretrained(tmp_path / "export")

    for line in [*mixed_lines(), *MORE_LINES]:
        ids = ours.encode(line)
        assert theirs.encode(line) == ids, line
        assert theirs.encode(line, add_special_tokens=False) == ours.encode(line, add_special_tokens=False), line
        assert theirs.decode(ids) == ours.decode(ids), line
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids, skip_special_tokens=True), line
    assert len(theirs) == ours.backend.get_vocab_size()
    assert theirs.special_tokens_map.items() >= ours.special_tokens.items()
    assert theirs.model_max_length == parts.checkpoint.config.max_positions


@pytest.mark.parametrize("tools", [None, [WEATHER]])
@pytest.mark.parametrize(
    "source",
    [
        pytest.param(lambda: read(find_or_fetch()), id="default-model"),
        pytest.param(lambda: folder_parts(V3), id="minimind", marks=needs_minimind),
    ],
)
def test_transformers_renders_the_same_chats(source, tools, tmp_path):
    parts = source()
    write(parts, tmp_path / "export")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "export")

    for chat in CHATS:
        for with_prompt in (True, False):
            text = theirs.apply_chat_template(chat, tools=tools, tokenize=False, add_generation_prompt=with_prompt)
            assert text == parts.chat_template.render(chat, tools=tools, add_generation_prompt=with_prompt)


def test_a_template_of_its_own_for_tools_is_kept(tmp_path):
    template = ChatTemplate("plain {{ bos_token }}", {"bos_token": "<s>"}, "with tools")
    write(parts_of(Tokenizer.from_folder(save_as_llama()(tmp_path / "a")), template), tmp_path / "b")
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "b"), ChatTemplate.from_folder(tmp_path / "b")

    for tools, text in ((None, "plain <s>"), ([WEATHER], "with tools")):
        assert theirs.apply_chat_template(CHATS[0], tools=tools, tokenize=False) == text
        assert ours is not None
        assert ours.render(CHATS[0], tools=tools) == text


def test_a_model_without_a_chat_template_has_none_afterwards(tmp_path):
    write(llama3_gguf(), tmp_path)

    assert AutoTokenizer.from_pretrained(tmp_path).chat_template is None


@pytest.mark.parametrize("source", SOURCES)
def test_the_folder_serves_as_the_models_own(source, tmp_path):
    parts = source(tmp_path / "source")
    write(parts, tmp_path / "export")
    again = Tokenizer.from_folder(tmp_path / "export")

    for line in [*mixed_lines()[::10], *MORE_LINES]:
        assert again.encode(line) == parts.tokenizer.encode(line), line
    assert again.special_tokens == parts.tokenizer.special_tokens
    assert again.special_token_ids == parts.tokenizer.special_token_ids


@needs_minimind
def test_a_pth_file_is_exported_with_the_tokenizer_that_is_named(tmp_path):
    model = str(next((GOLDEN / "v3").glob("*.pth")))
    export_tokenizer(LoadOptions(model=model, tokenizer=str(V3)), tmp_path / "new" / "folder")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "new" / "folder")

    assert theirs.encode("你好 <|im_end|>") == Tokenizer.from_folder(V3).encode("你好 <|im_end|>")


@needs_minimind
def test_a_folder_model_is_exported_from_its_own_folder(tmp_path):
    export_tokenizer(LoadOptions(model=str(EXPORTS / "v3")), tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.from_folder(EXPORTS / "v3")
    assert theirs.encode("你好") == ours.encode("你好")


def test_a_tokenizer_that_the_model_was_not_trained_with_is_not_exported(tmp_path):
    model = write_gguf(tmp_path / "small.gguf", small_config())
    other = save_like_qwen2(tmp_path / "other")

    with pytest.raises(ModelError, match="not the tokenizer that it was trained with"):
        export_tokenizer(LoadOptions(model=str(model), tokenizer=str(other)), tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_gguf_file_is_exported_without_torch(tmp_path):
    find_or_fetch()
    program = (
        "import sys\nfrom app.cli import main\nstatus = main(['export-tokenizer', 'default', sys.argv[1]])\n"
        "sys.exit(status or 3 * ('torch' in sys.modules))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "export")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / 'export'}\n", "")
    assert Backend.from_file(str(tmp_path / "export" / "tokenizer.json")).get_vocab_size() == 49152


def test_an_export_is_written_again(tmp_path):
    write(llama3_gguf(), tmp_path)
    (tmp_path / ".slotwise-killed").mkdir()  # by a process that had no time to clean up
    write(folder_parts(save_as_llama()(tmp_path.parent / f"{tmp_path.name}-other")), tmp_path)

    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["bos_token"] == "<s>"


@pytest.mark.parametrize(
    "files",
    [
        {"notes.txt": ""},
        {"tokenizer.json": "{}"},
        {"tokenizer.json": "{}", "tokenizer_config.json": "{}"},
        {"tokenizer_config.json": "broken"},
        {"tokenizer_config.json": '{"exported_by": "slotwise"}', "model.safetensors": ""},
    ],
)
def test_a_folder_with_anything_else_in_it_is_left_alone(files, tmp_path):
    (tmp_path / "export").mkdir()
    for name, text in files.items():
        (tmp_path / "export" / name).write_text(text)

    with pytest.raises(ExportError, match=r"export: the folder is not empty, and not an export of slotwise"):
        write(llama3_gguf(), tmp_path / "export")
    assert {path.name: path.read_text() for path in (tmp_path / "export").iterdir()} == files


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "export").write_text("a file")

    with pytest.raises(ExportError, match=r"export: cannot be written: File exists\.$"):
        write(llama3_gguf(), tmp_path / "export")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)

    with pytest.raises(ExportError, match="cannot be written: Permission denied"):
        write(llama3_gguf(), tmp_path / "export")


def test_a_write_that_fails_leaves_the_last_export_as_it_was(tmp_path, monkeypatch):
    write(llama3_gguf(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokenizer_export.os, "replace", fail)
    with pytest.raises(ExportError, match="No space left on device"):
        write(folder_parts(save_as_llama()(tmp_path.parent / f"{tmp_path.name}-other")), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
