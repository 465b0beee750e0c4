"""Entry 44 of the catalogue of what a server must survive: GGUF and .pth files that are cut, that lie, or that were
made to do harm, and what is no file at all; `test_catalogue_folders.py` has the rest. Each is named to `load` as a user
would, and has to be refused there in one paragraph that says which file it is and what is wrong with it; at last
through the real `slotwise serve`."""

import io
import math
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import ModelError
from model.load import load
from model.options import LoadOptions
from tests.reliability import model_files
from tests.reliability.file_catalogue import gguf_with, header, load_files, refused, with_template
from tests.reliability.model_files import TOKENS, VOCAB_SIZE, Files
from tests.reliability.pth_mutations import zip_of

ROOT = Path(__file__).parents[2]
NORM = "model.layers.0.input_layernorm.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize("files", [model_files.folder, model_files.minimind], ids=["folder", "pth"])
def test_44_what_is_damaged_here_was_sound(files, tmp_path):
    loaded = load_files(files(), tmp_path)
    assert loaded.runner.info.vocab_size == loaded.tokenizer.vocab_size == VOCAB_SIZE


def test_44_the_gguf_file_that_is_damaged_here_was_sound(tmp_path):
    content = model_files.saved(model_files.writer(), tmp_path / "seed")
    assert load_files({"model.gguf": content}, tmp_path).chat_template is not None


GGUF_KEYS: dict[str, tuple[dict[str, tuple[Any, str] | None], str]] = {
    "fewer tokens": ({"tokenizer.ggml.tokens": (TOKENS[:-1], "ARRAY")}, "tokenizer.ggml.tokens' has 259 tokens"),
    "more tokens": ({"tokenizer.ggml.tokens": ([*TOKENS, "x"], "ARRAY")}, "tokenizer.ggml.tokens' has 261 tokens"),
    "fewer types": ({"tokenizer.ggml.token_type": ([1] * 5, "ARRAY")}, "a list with a type for each of the 260 tokens"),
    "merges of anything": ({"tokenizer.ggml.merges": ([" " * 10**6], "ARRAY")}, "not two tokens of the vocabulary"),
    "tokens that are numbers": ({"tokenizer.ggml.tokens": ([1] * VOCAB_SIZE, "ARRAY")}, "a list of texts is needed"),
    "layers without end": ({"llama.block_count": (2**32 - 1, "UINT32")}, "block_count' is 4294967295"),
    "layers that are true": ({"llama.block_count": (True, "BOOL")}, "block_count' is True"),
    "no layers": ({"llama.block_count": (0, "UINT32")}, "block_count' is 0"),
    "no heads": ({"llama.attention.head_count": (0, "UINT32")}, "head_count' is 0"),
    "heads that divide nothing": ({"llama.attention.head_count_kv": (3, "UINT32")}, "has to divide the 4 heads"),
    "an epsilon that is no number": (
        {"llama.attention.layer_norm_rms_epsilon": (math.nan, "FLOAT32")},
        "epsilon' is nan",
    ),
    "an endless rope": ({"llama.rope.freq_base": (math.inf, "FLOAT32")}, "freq_base' is inf"),
    "an end past the vocabulary": ({"tokenizer.ggml.eos_token_id": (2**31, "UINT32")}, "eos_token_id' is 2147483648"),
    "alignment of terabytes": ({"general.alignment": (2**31, "UINT32")}, "ends at byte"),
    "a text for a number": ({"llama.embedding_length": ("64", "STRING")}, "embedding_length' is '64'"),
    "another architecture": ({"general.architecture": ("x" * 10**5, "STRING")}, "these can be served"),
    "no architecture": ({"general.architecture": None}, "general.architecture' is missing"),
}


@pytest.mark.parametrize("name", GGUF_KEYS)
def test_44_gguf_metadata_that_lie(name, tmp_path):
    keys, message = GGUF_KEYS[name]
    refused(gguf_with(tmp_path, **keys), tmp_path, rf"model\.gguf: .*{message}")


def number_at(place: int, value: int, size: int = 8) -> Callable[[bytes], bytes]:
    return lambda content: content[:place] + value.to_bytes(size, "little") + content[place + size :]


GGUF_BYTES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "bad magic": (lambda content: b"GGUV" + content[4:], "neither a GGUF file nor a PyTorch checkpoint"),
    "version of the future": (number_at(4, 99, 4), "says GGUF version 99"),
    "tensors without end": (number_at(8, 2**64 - 1), "the entry of tensor"),
    "keys without end": (number_at(16, 2**63), "metadata key .* of 9223372036854775808|has type number|past the end"),
    "a key without end": (number_at(24, 2**64 - 1), "metadata key 1 .* goes past the end of the file"),
    "a type that is none": (
        lambda content: content.replace(b"general.type\x08", b"general.type\x63"),
        "type number 99",
    ),
    "arrays in arrays": (
        lambda content: content.replace(b"tokens\x09\0\0\0\x08", b"tokens\x09\0\0\0\x09"),
        "is an array of arrays",
    ),
    "an array without end": (
        lambda content: content.replace(
            b"tokens\x09\0\0\0\x08\0\0\0" + struct.pack("<Q", VOCAB_SIZE), b"tokens\x09\0\0\0\x08\0\0\0" + b"\xff" * 8
        ),
        "is an array of 18446744073709551615 values",
    ),
    "only a magic": (lambda content: content[:4], "the header needs 4 bytes"),
    "only a header": (lambda content: content[:24], "metadata key 1"),
}


@pytest.mark.parametrize("name", GGUF_BYTES)
def test_44_a_gguf_head_that_lies(name, tmp_path):
    change, message = GGUF_BYTES[name]
    content = model_files.saved(model_files.writer(), tmp_path / "seed")
    assert change(content) != content
    refused({"model.gguf": change(content)}, tmp_path, rf"model\.gguf: .*({message})")


def test_44_a_gguf_file_cut_anywhere(tmp_path):
    content = model_files.saved(model_files.writer(), tmp_path / "seed")
    for end in [*range(4, len(content), len(content) // 60), len(content) - 1]:
        refused({"model.gguf": content[:end]}, tmp_path, r"model\.gguf: ")


# .pth


class Runs:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


def state(**changes: Any) -> dict[str, Any]:
    return model_files.minimind_state() | changes


def bomb() -> bytes:
    """Zeros without number in next to nothing."""
    entries = [("archive/data.pkl", bytes(10**8)), ("archive/version", b"3\n")]
    return zip_of(entries, zipfile.ZIP_DEFLATED)


def with_pickle(change: Callable[[bytes], bytes]) -> bytes:
    """A sound file, its pickle changed."""
    return zip_of([(name, change(data) if name.endswith(".pkl") else data) for name, data in entries_of_pth()])


def entries_of_pth() -> list[tuple[str, bytes]]:
    path = io.BytesIO(model_files.minimind()["model.pth"])
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def circle() -> dict[str, Any]:
    value = state()
    value["x"] = value
    return value


PTH: dict[str, tuple[Callable[[], bytes], str]] = {
    "a program": (
        lambda: model_files.pth(state(x=Runs(os.system, "touch canary"))),
        "Python objects other than tensors",
    ),
    "an import": (
        lambda: model_files.pth(state(x=Runs(__import__, "antigravity"))),
        "Python objects other than tensors",
    ),
    "code": (lambda: model_files.pth(state(x=Runs(eval, "1"))), "Python objects other than tensors"),
    "a pickle before 2020": (
        lambda: model_files.pth(state(), _use_new_zipfile_serialization=False),
        "is no zip file as torch.save writes it",
    ),
    "a pickle that runs": (lambda: pickle.dumps(Runs(os.system, "touch canary"), 2), "is no zip file"),
    "a circle": (lambda: model_files.pth(circle()), "holds 'x', which is no tensor"),
    "sparse": (
        lambda: model_files.pth(state(**{NORM: torch.eye(4).to_sparse()})),
        "not stored as rows|damaged|holds Py",
    ),
    "quantised": (
        lambda: model_files.pth(state(**{NORM: torch.quantize_per_tensor(torch.ones(64), 0.1, 0, torch.qint8)})),
        rf"tensor {NORM} is of torch\.qint8",
    ),
    "without memory": (lambda: model_files.pth(state(**{NORM: torch.ones(64, device="meta")})), "not stored as rows"),
    "a view of one number": (
        lambda: model_files.pth(state(**{EMBEDDING: torch.ones(1).expand(2**40, 64)})),
        "not stored as rows",
    ),
    "complex": (lambda: model_files.pth(state(**{NORM: torch.ones(64, dtype=torch.complex64)})), "torch.complex64"),
    "not a number": (
        lambda: model_files.pth(state(**{NORM: torch.full((64,), math.nan)})),
        rf"tensor '{NORM}' has values that are not finite",
    ),
    "a number for a tensor": (lambda: model_files.pth(state(x=1)), "holds 'x', which is no tensor"),
    "a name that is none": (lambda: model_files.pth({5: torch.ones(1)}), "holds 5, which is no tensor"),
    "a storage cut": (
        lambda: zip_of([(name, data[:8] if name.endswith("/0") else data) for name, data in entries_of_pth()]),
        "storage 0 has to have 66,560 bytes, but has 8 bytes",
    ),
    "a storage lost": (
        lambda: zip_of([one for one in entries_of_pth() if not one[0].endswith("/0")]),
        "storage 0 .* is not there",
    ),
    "a storage said to be larger": (
        lambda: with_pickle(lambda data: data.replace(struct.pack("<BH", 0x4D, 64 * VOCAB_SIZE), b"M\xff\xff")),
        "damaged",
    ),
    "a shape past its storage": (
        lambda: with_pickle(lambda data: data.replace(struct.pack("<BH", 0x4D, VOCAB_SIZE), b"M\xff\xff")),
        "damaged",
    ),
    "a bomb": (bomb, r"archive/data\.pkl is packed"),
    "no central directory": (lambda: model_files.minimind()["model.pth"][:-200], "damaged"),
    "only a magic": (lambda: b"PK\x03\x04", "damaged"),
}


@pytest.mark.filterwarnings("ignore:.*(quantized tensor creation|TypedStorage is deprecated)")
@pytest.mark.parametrize("name", PTH)
def test_44_pth(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, message = PTH[name]
    made = content()
    assert made != model_files.minimind()["model.pth"]
    refused(model_files.minimind() | {"model.pth": made}, tmp_path / "m", rf"model\.pth: .*({message})")
    assert not (tmp_path / "canary").exists()
    assert "antigravity" not in sys.modules


# What is no file at all

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX file system")
READ = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]


@POSIX
@pytest.mark.parametrize("file", READ)
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "link to itself", "link to nothing", "socket"])
def test_44_something_else_in_the_place_of_a_file(kind, file, tmp_path):
    model_files.write(model_files.folder(), tmp_path / "m")
    path = tmp_path / "m" / file
    path.unlink()
    make_in_place(kind, path)
    files: Files = {}
    optional = file in ("tokenizer_config.json", "generation_config.json")
    if optional and kind.startswith("link"):
        return  # as if it were not there
    refused(files, tmp_path / "m", rf"{re.escape(file)}|config\.json|neither")


@POSIX
@pytest.mark.parametrize("kind", ["fifo", "device", "link to itself", "link to nothing", "socket"])
def test_44_something_else_in_the_place_of_a_model(kind, tmp_path):
    path = tmp_path / "model.gguf"
    make_in_place(kind, path)
    with pytest.raises(ModelError, match=r"model\.gguf: (is no ordinary file|there is no such file|cannot be read)"):
        load(LoadOptions(str(path)))


def make_in_place(kind: str, path: Path) -> None:
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "link to itself":
            path.symlink_to(path)
        case "link to nothing":
            path.symlink_to(path.parent / "nothing")
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(os.path.relpath(path))


def test_44_files_of_any_size_are_not_read(tmp_path):
    model_files.write(model_files.folder(), tmp_path)
    for file in ("tokenizer.json", "config.json"):
        os.truncate(tmp_path / file, 2**40)
        refused({}, tmp_path, rf"{file}: .*1,099,511,627,776 bytes")


# The whole program


@pytest.mark.parametrize("name", ["safetensors", "gguf", "pth", "template"])
def test_44_the_server_says_it_in_one_paragraph_before_the_port_opens(name, tmp_path):
    cases: dict[str, tuple[Files, str]] = {
        "safetensors": (header(lambda _: None, 2**63 - 1)(model_files.folder()), "model.safetensors: "),
        "gguf": (gguf_with(tmp_path, **GGUF_KEYS["layers without end"][0]), "model.gguf: metadata key 'llama.block_co"),
        "pth": (model_files.minimind() | {"model.pth": PTH["a program"][0]()}, "model.pth: holds Python objects"),
        "template": (with_template("{{ 'x' * 10 ** 9 }}", "folder", tmp_path), "m: the chat template cannot be used: "),
    }
    files, message = cases[name]
    path = model_files.write(files, tmp_path / "m")
    with socket.socket() as finder:
        finder.bind(("127.0.0.1", 0))
        port = finder.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "import sys; from app.cli import main; sys.exit(main())",
        "serve",
        str(path),
        "--port",
        str(port),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLOTWISE_")}

    ended = subprocess.run(
        command, cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )

    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = [line for line in ended.stderr.splitlines() if "error: " in line]
    assert message in line
    assert "Traceback" not in ended.stderr
    assert "listening" not in ended.stderr
    assert not (tmp_path / "canary").exists()
