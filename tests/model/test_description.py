"""The facts about checkpoints of every format, with a tokenizer and without."""

import numpy as np
import pytest
import torch

from model import description
from model.default_model import find_or_fetch
from model.description import Encoded, NamedToken, describe
from model.errors import ModelError
from model.formats.checkpoint import WeightTensor
from model.load import read_checkpoint
from model.options import LoadOptions
from model.torch_backend.options import choose_dtype
from tests.model.gguf_files import small_config, write_gguf
from tests.model.hf_models import save_random_model
from tests.model.minimind_data import EXPORTS, GOLDEN, MINIMIND, needs_minimind
from tests.model.random_checkpoint import LLAMA, random_checkpoint
from tests.model.test_load import write_tokenizer

V3 = str(MINIMIND / "tokenizers" / "v3")
V3_MOE = str(GOLDEN / "v3-moe" / "full_sft_64_moe.pth")


@needs_minimind
def test_a_minimind_checkpoint_in_full():
    found = describe(LoadOptions(model=V3_MOE, tokenizer=V3))

    assert (found.format, found.origin, found.huggingface_class) == ("MiniMind", "MiniMind-3", "Qwen3MoeForCausalLM")
    assert found.num_parameters == 828_256
    assert found.encodings == {"F16": Encoded(44, 828_256, 2 * 828_256)}
    assert found.kv_cache.bytes_per_token == {"float32": 512, "bfloat16": 256, "float16": 256}  # 2 layers, 4 heads of 8
    assert found.tokenizer is not None
    assert (found.tokenizer.kind, found.tokenizer.num_tokens) == ("BPE", 6400)
    assert found.tokenizer.beginning == NamedToken(1, "<|im_start|>")
    assert found.tokenizer.ends == (NamedToken(2, "<|im_end|>"),)
    assert found.chat_template is not None
    assert found.chat_template.has_tools
    assert found.chat_template.has_thinking_switch


@needs_minimind
def test_a_checkpoint_alone_is_described_without_a_tokenizer():
    found = describe(LoadOptions(model=V3_MOE))

    assert (found.tokenizer, found.chat_template) == (None, None)
    assert "there is no tokenizer.json; --tokenizer FOLDER says where" in found.tokenizer_problem


def test_a_folder_and_a_gguf_file_need_no_tokenizer_either(tmp_path):
    save_random_model("qwen2", tmp_path / "folder")
    folder = describe(LoadOptions(model=str(tmp_path / "folder")))
    file = describe(LoadOptions(model=str(write_gguf(tmp_path / "small.gguf", small_config()))))

    assert (folder.format, folder.huggingface_class) == ("Hugging Face", "Qwen2ForCausalLM")
    assert "tokenizer.json" in folder.tokenizer_problem
    assert (file.format, file.huggingface_class) == ("GGUF", "LlamaForCausalLM")
    assert "tokenizer.ggml" in file.tokenizer_problem


def test_a_tokenizer_that_does_not_fit_is_a_problem_of_its_own(tmp_path):
    path = write_gguf(tmp_path / "small.gguf", small_config())
    other = write_tokenizer(tmp_path / "other", 200)

    found = describe(LoadOptions(model=str(path), tokenizer=str(other)))
    assert "not the tokenizer that it was trained with" in found.tokenizer_problem


def test_a_damaged_model_is_the_model_s_error(tmp_path):
    path = write_gguf(tmp_path / "small.gguf", small_config())
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(ModelError, match="cut short"):
        describe(LoadOptions(model=str(path)))


def test_the_default_model_s_encodings_are_counted():
    found = describe(LoadOptions(model=str(find_or_fetch())))

    assert {name: part.num_tensors for name, part in found.encodings.items()} == {"F32": 61, "Q4_1": 210, "Q8_0": 1}
    assert sum(part.num_parameters for part in found.encodings.values()) == found.num_parameters
    assert found.kv_cache.bytes_per_token["bfloat16"] == 2 * 30 * 3 * 64 * 2
    assert found.tokenizer is not None
    assert [end.text for end in found.tokenizer.ends] == ["<|endoftext|>", "<|im_end|>"]
    assert found.chat_template is not None
    assert not found.chat_template.has_tools


@needs_minimind
@pytest.mark.parametrize("model", [V3_MOE, str(EXPORTS / "v3")])
def test_no_value_of_a_tensor_is_decoded(model, monkeypatch):
    def fail(tensor: WeightTensor) -> np.ndarray:
        raise AssertionError(tensor.file_name)

    monkeypatch.setattr(WeightTensor, "to_float32", fail)
    assert describe(LoadOptions(model=model)).num_parameters > 0


@needs_minimind
@pytest.mark.parametrize("source", [lambda: read_checkpoint(GOLDEN / "v3" / "full_sft_64.pth"), None])
def test_the_types_by_default_are_the_backends_own(source):
    checkpoint = source() if source else random_checkpoint(LLAMA, 0)
    types = description._kv_cache(checkpoint).default_types

    for device in ("cpu", "cuda"):
        name = {"cpu": "torch on a CPU", "cuda": "torch on a GPU"}[device]
        assert f"torch.{types[name]}" == str(choose_dtype("auto", checkpoint, torch.device(device)))
    assert types["native"] == "bfloat16"
