"""An exported folder computes in transformers what the model computes here, and is served again as the same model."""

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from model import huggingface_export
from model.chat_template import ChatTemplate
from model.default_model import find_or_fetch
from model.errors import ExportError, ModelError
from model.formats import gguf, huggingface
from model.formats.checkpoint import Checkpoint
from model.huggingface_export import export, write
from model.load import Parts, read, read_checkpoint
from model.options import LoadOptions
from model.tokenizer import Tokenizer
from model.tokenizer_match import fit_vocabulary
from model.torch_backend.runner import TorchOptions, TorchRunner
from tests.model.gguf_files import small_config, write_gguf
from tests.model.hf_models import MODELS, save_random_model
from tests.model.minimind_data import GOLDEN, MINIMIND, needs_minimind
from tests.model.random_checkpoint import LLAMA, QWEN3_MOE, random_checkpoint
from tests.model.reading import read_one_by_one
from tests.model.test_load import write_tokenizer

TOLERANCE = 2e-4
V3 = MINIMIND / "tokenizers" / "v3"
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def with_tokenizer(checkpoint: Checkpoint, folder: Path) -> Parts:
    tokenizer = fit_vocabulary(Tokenizer.from_folder(write_tokenizer(folder)), checkpoint)
    return Parts(checkpoint, tokenizer, None)


@pytest.fixture
def small(tmp_path: Path) -> Parts:
    return with_tokenizer(random_checkpoint(LLAMA, 0), tmp_path / "tokenizer")


@torch.inference_mode()
def transformers_logits(folder: Path, token_ids: list[int]) -> torch.Tensor:  # [T, V]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    logits: torch.Tensor = model(input_ids=torch.tensor([token_ids])).logits[0]
    return logits


def assert_same_bits(ours: Checkpoint, theirs: Checkpoint) -> None:
    assert ours.weights.keys() == theirs.weights.keys()
    for name, tensor in ours.weights.items():
        again = theirs.weights[name]
        assert (again.shape, again.encoding) == (tensor.shape, tensor.encoding), name
        np.testing.assert_array_equal(again.data, tensor.data, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_is_the_same_afterwards(name, tmp_path):
    saved = save_random_model(name, tmp_path / "source")
    before = huggingface.read(tmp_path / "source")
    write(with_tokenizer(before, tmp_path / "tokenizer"), tmp_path / "export")
    after = huggingface.read(tmp_path / "export")

    assert after.config == before.config
    assert_same_bits(before, after)
    token_ids = list(range(200))
    with torch.inference_mode():
        expected = saved.model(input_ids=torch.tensor([token_ids])).logits[0]
    torch.testing.assert_close(transformers_logits(tmp_path / "export", token_ids), expected, rtol=0, atol=1e-5)


@needs_minimind
@pytest.mark.parametrize("file", ["v3/full_sft_64.pth", "v3-moe/full_sft_64_moe.pth", "v3-untied/full_sft_64.pth"])
def test_transformers_computes_what_minimind_does(file, tmp_path):
    export(LoadOptions(model=str(GOLDEN / file), tokenizer=str(V3)), tmp_path / "export")

    golden = load_file((GOLDEN / file).with_name("expected.safetensors"))
    for row in ("0", "1", "2", "long"):
        logits = transformers_logits(tmp_path / "export", golden[f"input_ids_{row}"].tolist())
        expected = golden[f"logits_{row}"]
        torch.testing.assert_close(logits[golden[f"positions_{row}"]], expected, rtol=0, atol=TOLERANCE)


@needs_minimind
@pytest.mark.parametrize("file", ["v3/full_sft_64.pth", "v3-moe/full_sft_64_moe.pth", "v3-untied/full_sft_64.pth"])
def test_a_minimind_export_is_served_as_the_same_model(file, tmp_path):
    export(LoadOptions(model=str(GOLDEN / file), tokenizer=str(V3)), tmp_path / "export")

    before, after = read(GOLDEN / file, V3), read(tmp_path / "export")
    assert {path.name for path in (tmp_path / "export").iterdir()} == FILES
    assert after.checkpoint.config == before.checkpoint.config
    assert_same_bits(before.checkpoint, after.checkpoint)
    assert before.chat_template is not None
    assert after.chat_template is not None
    assert after.chat_template.source == before.chat_template.source
    theirs = AutoTokenizer.from_pretrained(tmp_path / "export")
    for line in (MINIMIND / "tokens" / "v3.jsonl").read_text().splitlines():
        text, ids = json.loads(line)["text"], json.loads(line)["ids"]
        assert after.tokenizer.encode(text, add_special_tokens=False) == ids
        assert theirs.encode(text, add_special_tokens=False) == ids


@needs_minimind
def test_minimind_exports_say_where_a_text_ends(tmp_path):
    """MiniMind's own conversion leaves it out, so that transformers' generate would never stop."""
    export(LoadOptions(model=str(GOLDEN / "v3" / "full_sft_64.pth"), tokenizer=str(V3)), tmp_path / "export")

    for name in ("config.json", "generation_config.json"):
        said = json.loads((tmp_path / "export" / name).read_text())
        assert (said["bos_token_id"], said["eos_token_id"]) == (1, 2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert model.generation_config.eos_token_id == 2
    assert model.dtype == torch.float16


def test_the_default_model_in_full_computes_the_same(tmp_path):
    checkpoint = gguf.read(find_or_fetch())
    export(LoadOptions(model=str(find_or_fetch())), tmp_path / "export", "float32")

    token_ids = list(range(100, 140))
    runner = TorchRunner(checkpoint, TorchOptions(device="cpu", dtype="float32", kv_cache_memory=2**26))
    expected = read_one_by_one(runner, token_ids)
    del runner
    torch.testing.assert_close(transformers_logits(tmp_path / "export", token_ids), expected, rtol=0, atol=TOLERANCE)
    said = json.loads((tmp_path / "export" / "generation_config.json").read_text())
    assert said["eos_token_id"] == sorted(read(find_or_fetch()).tokenizer.eos_token_ids)


@pytest.mark.parametrize(("dtype", "encoding"), [("auto", "F16"), ("float32", "F32"), ("bfloat16", "BF16")])
def test_what_is_quantised_is_decoded(dtype, encoding, tmp_path):
    path = write_gguf(tmp_path / "small.gguf", small_config(), encoding="Q8_0")
    before = gguf.read(path)
    write(with_tokenizer(before, tmp_path / "tokenizer"), tmp_path / "export", dtype)
    after = huggingface.read(tmp_path / "export")

    spread = {"F16": 2**-11, "F32": 0, "BF16": 2**-8}[encoding]
    for name, tensor in before.weights.items():
        again = after.weights[name]
        assert again.encoding == ("F32" if tensor.encoding == "F32" and dtype == "auto" else encoding)
        np.testing.assert_allclose(again.to_float32(), tensor.to_float32(), rtol=spread, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (
            replace(QWEN3_MOE, moe=replace(QWEN3_MOE.moe, num_shared_experts=1)),  # type: ignore[type-var]
            "cannot be exported: its shared experts, which every token passes, have no place in Qwen3-MoE",
        ),
        (
            replace(LLAMA, output_bias=True),
            r"such a model \(no experts, without norms of queries and keys, biases: output_bias\)",
        ),
        (replace(QWEN3_MOE, qk_norm=False), r"such a model \(experts, without norms of queries and keys, biases: none"),
        (
            replace(LLAMA, rope=replace(LLAMA.rope, frequency_divisors=(2.0,) * 8)),
            r"a table \(rope_freqs\.weight\), for which config\.json has no key",
        ),
    ],
)
def test_what_transformers_has_no_class_for_is_refused(config, problem, tmp_path):
    with pytest.raises(ModelError, match=problem):
        write(with_tokenizer(random_checkpoint(config, 0), tmp_path / "tokenizer"), tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_an_empty_folder_is_taken_and_a_new_one_made(small, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for folder in (tmp_path / "empty", tmp_path / "new" / "folder", tmp_path / "link"):
        write(small, folder)
        assert {path.name for path in folder.iterdir()} == FILES
    assert (tmp_path / "link").is_symlink()
    assert list(tmp_path.glob(".slotwise-*")) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_others_may_read_it_as_they_may_read_what_is_made_there(small, tmp_path):
    (tmp_path / "usual").mkdir()
    write(small, tmp_path / "export")

    assert stat.S_IMODE((tmp_path / "export").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize("name", ["notes.txt", "config.json"])
def test_a_folder_with_anything_in_it_is_left_alone(name, small, tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / name).write_text("mine")

    with pytest.raises(ExportError, match=r"export: is there already, and no empty folder"):
        write(small, tmp_path / "export")
    assert [path.read_text() for path in (tmp_path / "export").iterdir()] == ["mine"]


def test_a_file_is_left_alone(small, tmp_path):
    (tmp_path / "export").write_text("mine")

    with pytest.raises(ExportError, match="is there already"):
        write(small, tmp_path / "export")
    assert (tmp_path / "export").read_text() == "mine"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_export_that_is_cut_short_leaves_nothing(error, small, tmp_path, monkeypatch):
    def cut_short(path, weights, asked):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(huggingface_export, "write_safetensors", cut_short)
    with pytest.raises((ExportError, KeyboardInterrupt)) as raised:
        write(small, tmp_path / "place" / "export")
    assert list((tmp_path / "place").iterdir()) == []
    if isinstance(error, OSError):
        assert str(raised.value).endswith("export: cannot be written: No space left on device.")


def test_a_template_and_sampling_defaults_come_along(tmp_path):
    checkpoint = random_checkpoint(LLAMA, 0)
    checkpoint = replace(checkpoint, generation=replace(checkpoint.generation, temperature=0.6, top_k=20))
    small = with_tokenizer(checkpoint, tmp_path / "tokenizer")
    write(replace(small, chat_template=ChatTemplate("{{ messages[0].content }}", {})), tmp_path / "export")
    after = read(tmp_path / "export")

    assert after.chat_template is not None
    assert after.chat_template.source == "{{ messages[0].content }}"
    assert after.checkpoint.generation == checkpoint.generation


def test_a_checkpoint_is_read_without_a_tokenizer(tmp_path):
    path = write_gguf(tmp_path / "small.gguf", small_config())

    assert read_checkpoint(path).config == gguf.read(path).config
