"""What is named becomes a model: which format it is, where its parts come from, and what is refused before a weight is
read. Formats have their own tests."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from model import load as loading
from model.batch import Batch, Chunk, GrownSlot, OpenedSlot, SamplingParams
from model.default_model import DEFAULT_MODEL, pull
from model.errors import ModelError
from model.formats import gguf
from model.load import (
    Format,
    LoadOptions,
    build_runner,
    detect_format,
    find_model,
    load,
    read,
    read_adapter,
    read_adapters,
    read_parts,
)
from model.options import AdapterOption
from model.tokenizer_match import fit_vocabulary
from tests.model.adapters import matrices_of, minimind_state, save_peft
from tests.model.gguf_files import small_config, write_gguf
from tests.model.hf_models import edit_json, save_random_model
from tests.model.minimind_data import EXPORTS, GOLDEN, MINIMIND, needs_minimind
from tests.model.torch_backend.driver import Driver

ROOT = Path(__file__).parents[2]
V3_TOKENIZER = MINIMIND / "tokenizers" / "v3"


def write_tokenizer(folder: Path, num_tokens: int = 96, template: str | None = None) -> Path:
    """Of the first characters of the byte-level alphabet; the text "a" is one token."""
    folder.mkdir(exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:num_tokens]
    backend = Backend(models.BPE(vocab={token: token_id for token_id, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture
def gguf_file(tmp_path) -> Path:
    """A model of 96 tokens without a tokenizer of its own."""
    return write_gguf(tmp_path / "small.gguf", small_config())


@pytest.fixture
def no_runner(monkeypatch) -> None:
    """Loading stops where a backend would take over."""
    monkeypatch.setattr(loading, "build_runner", lambda checkpoint, options, adapters: None)


@pytest.mark.parametrize(
    ("head", "expected"),
    [(b"GGUF\x03\0\0\0", Format.GGUF), (b"PK\x03\x04", Format.MINIMIND), (b"\x80\x02}q", Format.MINIMIND)],
)
def test_a_format_is_known_by_its_contents(head, expected, tmp_path):
    file = tmp_path / "model.whatever"
    file.write_bytes(head + bytes(100))

    assert detect_format(file) is expected


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "PyTorch checkpoint.$"),
        (b"GGU", "PyTorch checkpoint.$"),
        (b"hello, this is no model", "PyTorch checkpoint.$"),
        (b'\x10\0\0\0\0\0\0\0{"a": 1}        ', "Name the folder that it lies in, with its config.json.$"),
    ],
)
def test_another_file_is_refused(content, hint, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(content)

    with pytest.raises(ModelError, match=rf"model\.gguf: this is neither a GGUF file nor a .*{hint}"):
        detect_format(file)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    file.chmod(0)

    with pytest.raises(ModelError, match=r"model\.gguf: cannot be read: Permission denied"):
        detect_format(file)


def test_a_folder_with_one_gguf_file_is_that_file(tmp_path):
    (tmp_path / "README.md").write_text("about it")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")

    assert find_model(tmp_path) == tmp_path / "model.gguf"


def test_a_folder_with_a_config_is_a_hugging_face_folder(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "config.json").write_text("{}")

    assert find_model(tmp_path) == tmp_path
    assert detect_format(tmp_path) is Format.HUGGING_FACE


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ((), "neither config.json nor a GGUF file"),
        (("a.gguf", "b.gguf"), "2 GGUF files; name one of them"),
        (("full_sft_512.pth",), r"named by its \.pth file"),
    ],
)
def test_a_folder_that_leaves_a_choice_is_refused(names, problem, tmp_path):
    for name in names:
        (tmp_path / name).touch()

    with pytest.raises(ModelError, match=problem):
        find_model(tmp_path)


def test_a_path_that_is_not_there_is_named():
    with pytest.raises(ModelError, match=r"^nowhere\.gguf: there is no such file or folder\.$"):
        find_model(Path("nowhere.gguf"))


@pytest.mark.parametrize("options", [LoadOptions(model="~no such user/m"), LoadOptions(tokenizer="~no such user/t")])
def test_the_home_of_nobody_is_named(options):
    with pytest.raises(ModelError, match="^~no such user/[mt]: there is no user of this name"):
        load(options)


def test_a_name_on_the_hub_is_told_how_to_get_there():
    with pytest.raises(ModelError, match="hf download someone/some-model --local-dir some-model"):
        find_model(Path("someone/some-model"))


def test_a_gguf_file_brings_its_tokenizer_and_its_template():
    parts = read(pull())

    assert parts.checkpoint.config.architecture == "llama"
    assert parts.tokenizer.vocab_size == parts.checkpoint.config.vocab_size == 49152
    assert parts.chat_template is not None


def test_a_tokenizer_folder_takes_the_place_of_the_models_own(tmp_path):
    folder = write_tokenizer(tmp_path / "tokenizer", template="{{ messages[0].content }}!")

    parts = read(pull(), folder)

    assert parts.tokenizer.vocab_size == 96
    assert parts.chat_template is not None
    assert parts.chat_template.render([{"role": "user", "content": "a"}]) == "a!"


@pytest.mark.parametrize("where", ["in the model's folder", "elsewhere"])
def test_a_hugging_face_folder_is_read(where, tmp_path):
    save_random_model("qwen3", tmp_path / "model")
    folder = write_tokenizer(tmp_path / ("model" if where == "in the model's folder" else "elsewhere"))

    parts = read(tmp_path / "model", None if folder.name == "model" else folder)

    assert parts.checkpoint.config.architecture == "qwen3"
    assert parts.tokenizer.encode("a") == [sorted(pre_tokenizers.ByteLevel.alphabet()).index("a")]
    assert parts.chat_template is None


@needs_minimind
def test_minimind_takes_its_tokenizer_from_the_folder_that_is_named():
    parts = read(GOLDEN / "v3" / "full_sft_64.pth", V3_TOKENIZER)

    assert parts.checkpoint.config.vocab_size == parts.tokenizer.vocab_size == 6400
    assert parts.chat_template is not None


@needs_minimind
def test_minimind_finds_a_tokenizer_beside_it(tmp_path):
    (tmp_path / "model.pth").symlink_to(GOLDEN / "v3" / "full_sft_64.pth")
    for file in V3_TOKENIZER.iterdir():
        (tmp_path / file.name).symlink_to(file)

    assert read(tmp_path / "model.pth").tokenizer.vocab_size == 6400


@needs_minimind
@pytest.mark.parametrize("scaling", ["auto", "minimind-yarn"])
def test_minimind_s_rotary_scaling_is_an_option(scaling):
    options = LoadOptions(tokenizer=str(V3_TOKENIZER), rope_scaling=scaling)

    rope = read_parts(GOLDEN / "v3" / "full_sft_64.pth", options).checkpoint.config.rope

    assert (rope.kind, rope.factor) == (("default", 1.0) if scaling == "auto" else ("yarn", 16.0))


@needs_minimind
def test_minimind_s_own_folder_is_read():
    parts = read(EXPORTS / "v3-minimind", V3_TOKENIZER)

    assert parts.checkpoint.origin == "MiniMind-3"
    assert parts.chat_template is not None


@needs_minimind
def test_minimind_exported_for_hugging_face_is_read():
    assert read(EXPORTS / "v3").checkpoint.config.vocab_size == 6400


@pytest.mark.parametrize("is_given", [False, True])
def test_minimind_without_a_tokenizer_is_told_of_the_option(is_given, tmp_path):
    file = tmp_path / "model.pth"
    file.write_bytes(b"PK\x03\x04")
    empty = tmp_path / "empty"
    empty.mkdir()

    with pytest.raises(ModelError, match="there is no tokenizer.json; --tokenizer FOLDER says where") as raised:
        read(file, empty if is_given else None)
    assert raised.value.path == (empty if is_given else tmp_path)


def test_rows_without_a_token_can_be_chosen_and_print_nothing(gguf_file, tmp_path):
    parts = read(gguf_file, write_tokenizer(tmp_path / "tokenizer", num_tokens=90))

    tokenizer = fit_vocabulary(parts.tokenizer, parts.checkpoint)

    assert len(tokenizer.token_bytes) == tokenizer.vocab_size == 96
    assert tokenizer.token_bytes[:90] == parts.tokenizer.token_bytes
    assert tokenizer.token_bytes[90:] == (b"",) * 6
    assert tokenizer.decode([95]) == ""


def test_a_token_without_a_row_is_refused(gguf_file, tmp_path):
    parts = read(gguf_file, write_tokenizer(tmp_path / "tokenizer", num_tokens=97))

    with pytest.raises(ModelError, match=r"small\.gguf: the tokenizer has 97 tokens, .* embedding only 96 rows"):
        fit_vocabulary(parts.tokenizer, parts.checkpoint)


def test_a_model_is_called_what_its_file_is(gguf_file, tmp_path, no_runner):
    folder = write_tokenizer(tmp_path / "tokenizer")

    loaded = load(LoadOptions(model=str(gguf_file), tokenizer=str(folder)))

    assert (loaded.name, loaded.path, loaded.architecture) == ("small", gguf_file, "llama")
    assert loaded.num_parameters == 98_624


def test_a_folder_is_called_by_its_whole_name(tmp_path, no_runner, monkeypatch):
    save_random_model("llama", tmp_path / "model-1.5b")
    write_tokenizer(tmp_path / "model-1.5b")
    monkeypatch.chdir(tmp_path / "model-1.5b")

    assert load(LoadOptions(model=".")).name == "model-1.5b"


def test_no_name_is_the_default_model(no_runner):
    pull()
    loaded = load(LoadOptions())

    assert loaded.name == DEFAULT_MODEL.name
    assert loaded.path.name == DEFAULT_MODEL.file_name
    assert loaded.tokenizer.encode("<|im_end|>")[0] in loaded.eos_token_ids


def test_a_text_ends_where_tokenizer_or_checkpoint_says(tmp_path, no_runner):
    save_random_model("llama", tmp_path)
    write_tokenizer(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", eos_token="a")
    edit_json(tmp_path / "config.json", eos_token_id=3)
    edit_json(tmp_path / "generation_config.json", eos_token_id=[3, 5], temperature=0.7)

    loaded = load(LoadOptions(model=str(tmp_path)))

    assert loaded.eos_token_ids == {3, 5, *loaded.tokenizer.encode("a")}
    assert loaded.generation.temperature == 0.7


@pytest.mark.parametrize("kind", ["MiniMind", "PEFT"])
def test_an_adapter_of_either_kind_is_merged(kind, gguf_file, tmp_path, monkeypatch):
    """Into the matrices of a quantised file, which are floats from then on."""
    config = gguf.read(gguf_file).config
    path = tmp_path / "adapter"
    if kind == "PEFT":
        save_peft(path, config, {"r": 2, "lora_alpha": 2}, ("q_proj", "o_proj"))
    else:
        torch.save(minimind_state(config), path)
    built = []
    monkeypatch.setattr(loading, "build_runner", lambda checkpoint, options, adapters: built.append(checkpoint))

    folder = str(write_tokenizer(tmp_path / "tokenizer"))
    load(LoadOptions(model=str(gguf_file), tokenizer=folder, merge_lora=str(path)))

    before, after = gguf.read(gguf_file).weights, built[0].weights
    changed = {name for name in before if not np.array_equal(before[name].data, after[name].data)}
    assert changed == matrices_of(config, ("q_proj", "o_proj")).keys()
    assert {after[name].encoding for name in changed} == {"F32"}


def test_adapters_are_the_runners_in_the_order_of_the_options(gguf_file, tmp_path):
    config = gguf.read(gguf_file).config
    save_peft(tmp_path / "peft", config, {"r": 2}, ("down_proj",))
    torch.save(minimind_state(config), tmp_path / "lora.pth")
    given = (AdapterOption("b", str(tmp_path / "peft")), AdapterOption("a", str(tmp_path / "lora.pth")))
    folder = str(write_tokenizer(tmp_path / "tokenizer"))
    options = LoadOptions(model=str(gguf_file), tokenizer=folder, lora=given, kv_cache_memory=2**21)

    loaded = load(options)
    adapters = read_adapters(gguf.read(gguf_file), options)

    assert loaded.adapters == given
    assert [(adapter.name, len(adapter.pairs)) for adapter in adapters] == [("b", 2), ("a", 4)]
    Driver(loaded.runner).generate((1, 2), SamplingParams(), 1)


def test_what_can_only_be_merged_is_not_served_beside_the_model(gguf_file, tmp_path):
    checkpoint = gguf.read(gguf_file)
    sizes = {"A": (1, checkpoint.config.hidden_size), "B": (checkpoint.config.vocab_size, 1)}
    tensors = {f"base_model.model.lm_head.lora_{side}.weight": torch.ones(size) for side, size in sizes.items()}
    save_peft(tmp_path / "peft", checkpoint.config, {"r": 1, "target_modules": ["lm_head"]}, ())
    save_file(tensors, tmp_path / "peft/adapter_model.safetensors")

    assert read_adapter("x", tmp_path / "peft", checkpoint).pairs.keys() == {"lm_head.weight"}
    with pytest.raises(ModelError, match="peft: changes lm_head.weight, which is possible only where it is merged"):
        read_adapters(checkpoint, LoadOptions(lora=(AdapterOption("x", str(tmp_path / "peft")),)))


def test_what_is_no_adapter_is_refused(gguf_file, tmp_path):
    checkpoint = gguf.read(gguf_file)
    with pytest.raises(ModelError, match="small.gguf: is no LoRA adapter: neither"):
        read_adapter("x", gguf_file, checkpoint)
    with pytest.raises(ModelError, match="nowhere: there is no such file or folder; a LoRA adapter"):
        read_adapter("x", tmp_path / "nowhere", checkpoint)
    with pytest.raises(ModelError, match="adapter_config.json: cannot be read"):
        read_adapter("x", tmp_path, checkpoint)


def test_the_runner_is_what_was_asked_for(gguf_file, tmp_path):
    words = {"backend": "torch", "device": "cpu", "dtype": "float32", "kv_dtype": "bfloat16"}
    options = LoadOptions(**words, num_threads=1, max_model_len=64)
    checkpoint = read(gguf_file, write_tokenizer(tmp_path / "tokenizer")).checkpoint

    info = build_runner(checkpoint, options).info

    assert (info.backend, info.device, info.dtype, info.kv_dtype) == ("torch", "cpu", "float32", "bfloat16")
    assert (info.num_threads, info.max_model_len, info.vocab_size) == (1, 64, 96)


def test_a_limit_of_memory_reaches_the_runner(gguf_file, tmp_path):
    checkpoint = read(gguf_file, write_tokenizer(tmp_path / "tokenizer")).checkpoint

    one_slot = build_runner(checkpoint, LoadOptions(max_num_seqs=1)).info
    two_slots = build_runner(checkpoint, LoadOptions(max_num_seqs=2)).info
    limited = build_runner(checkpoint, LoadOptions(kv_cache_memory=3 * one_slot.block_bytes)).info

    assert two_slots.num_blocks == 2 * one_slot.num_blocks
    assert limited.num_blocks == 3


def test_what_is_loaded_answers(gguf_file, tmp_path):
    folder = write_tokenizer(tmp_path / "tokenizer")
    runner = load(LoadOptions(model=str(gguf_file), tokenizer=str(folder), num_threads=1)).runner

    output = runner.run(
        Batch(
            opened=(OpenedSlot(0, 0, 3, SamplingParams(temperature=0.0)),),
            grown=(GrownSlot(0, (0,)),),
            chunks=(Chunk(0, (1, 2, 3)),),
        )
    )

    assert output.results[0].error is None
    assert output.results[0].token_id in range(96)


def test_torch_is_imported_only_to_build_a_runner():
    program = (
        "import sys; from model.load import read; from model.default_model import pull; read(pull());"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)
