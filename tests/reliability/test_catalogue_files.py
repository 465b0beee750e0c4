"""Entry 44 of the catalogue of what a server must survive: model files that are cut, that lie, or that were made to do
harm. Each is named to `load` as a user would, and has to be refused there in one paragraph that says which file it is
and what is wrong with it; at last through the real `slotwise serve`. What single readers refuse is in
`tests/model/formats`; here is what a whole model can have."""

import json
import math
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from model import template_bounds
from model.errors import ModelError
from model.load import LoadedModel, load
from model.options import LoadOptions
from tests.reliability import model_files
from tests.reliability.model_files import SPECIAL, TEMPLATE, TOKENS, VOCAB_SIZE, Files
from tests.reliability.pth_mutations import zip_of

ROOT = Path(__file__).parents[2]
SECONDS = 20.0  # generous: nothing here takes one
Change = Callable[[Files], Files | None]
NORM = "model.layers.0.input_layernorm.weight"
EMBEDDING = "model.embed_tokens.weight"


def load_files(files: Mapping[str, bytes], place: Path, backend: Any = "native") -> LoadedModel:
    path = str(model_files.write(files, place))
    return load(LoadOptions(path, backend=backend, device="cpu", num_threads=1, kv_cache_memory=4 << 20))


def refused(files: Mapping[str, bytes], place: Path, message: str, backend: Any = "native") -> None:
    start = time.monotonic()
    with pytest.raises(ModelError, match=message) as caught:
        load_files(files, place, backend)
    assert time.monotonic() - start < SECONDS
    text = str(caught.value)
    assert "\n" not in text
    assert len(caught.value.problem) <= 1000
    assert caught.value.path == place or caught.value.path.parent == place


@pytest.mark.parametrize("files", [model_files.folder, model_files.minimind], ids=["folder", "pth"])
def test_44_what_is_damaged_here_was_sound(files, tmp_path):
    loaded = load_files(files(), tmp_path)
    assert loaded.runner.info.vocab_size == loaded.tokenizer.vocab_size == VOCAB_SIZE


def test_44_the_gguf_file_that_is_damaged_here_was_sound(tmp_path):
    content = model_files.saved(model_files.writer(), tmp_path / "seed")
    assert load_files({"model.gguf": content}, tmp_path).chat_template is not None


# safetensors


def header(change: Callable[[dict[str, Any]], Any], length: int | None = None) -> Change:
    def changed(files: Files) -> Files:
        entries, values = model_files.split_safetensors(files["model.safetensors"])
        entries = change(entries) or entries
        return files | {"model.safetensors": model_files.safetensors_file(entries, values, length)}

    return changed


def entry(name: str, **fields: Any) -> Change:
    return header(lambda entries: entries[name].update(fields))


def twice(entries: dict[str, Any]) -> bytes:
    return (
        b'{"'
        + EMBEDDING.encode()
        + b'": '
        + json.dumps(entries[EMBEDDING]).encode()
        + b", "
        + json.dumps(entries).encode()[1:]
    )


def weights(**changes: Any) -> Change:
    def changed(files: Files) -> Files:
        tensors = load_safetensors(files["model.safetensors"])
        for name, value in changes.items():
            tensors[name] = np.array(tensors[name])
            tensors[name].flat[-1] = value
        return files | {"model.safetensors": save_safetensors(tensors)}

    return changed


SAFETENSORS: dict[str, tuple[Change, str]] = {
    "header longer than memory": (header(lambda _: None, 2**63 - 1), r"model\.safetensors: cannot be read as safeten"),
    "header length negative": (header(lambda _: None, -1), "cannot be read as safetensors"),
    "header length zero": (header(lambda _: None, 0), "cannot be read as safetensors"),
    "header of garbage": (header(lambda _: b"\xff" * 100), "cannot be read as safetensors"),
    "header too deep": (header(lambda _: b"[" * 100_000), "cannot be read as safetensors"),
    "header of a name twice": (header(twice), f"the header has an entry {EMBEDDING} twice"),
    "offsets negative": (entry(NORM, data_offsets=[-256, 0]), "cannot be read as safetensors"),
    "offsets past 64 bits": (entry(NORM, data_offsets=[2**64, 2**64 + 256]), "cannot be read as safetensors"),
    "offsets of another": (entry(NORM, data_offsets=[0, 256]), "cannot be read as safetensors"),
    "shape that overflows to its size": (entry(NORM, shape=[2**62, 2**2, 64]), "cannot be read as safetensors"),
    "shape of a hundred thousand axes": (entry(NORM, shape=[1] * 100_000 + [64]), "a shape of 100001 axes"),
    "shape empty": (entry(NORM, shape=[]), "cannot be read as safetensors"),
    "dtype unknown": (entry(NORM, dtype="F33"), "cannot be read as safetensors"),
    "dtype of integers": (entry(NORM, dtype="I32"), rf"tensor {NORM} has the encoding I32; only F32, F16, BF16"),
    "dtype of half the size": (entry(NORM, dtype="BF16"), "cannot be read as safetensors"),
    "infinity": (weights(**{NORM: math.inf}), rf"model\.safetensors: tensor '{NORM}' has values that are not finite"),
    "not a number": (weights(**{EMBEDDING: math.nan}), rf"tensor '{EMBEDDING}' has values that are not finite"),
    "empty": (lambda files: files | {"model.safetensors": b""}, r"model\.safetensors: cannot be read as safetensors"),
    "pickle of that name": (
        lambda files: files | {"model.safetensors": pickle.dumps({"a": 1})},
        r"model\.safetensors: cannot be read as safetensors",
    ),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_44_safetensors(name, tmp_path):
    change, message = SAFETENSORS[name]
    refused(change(model_files.folder()) or {}, tmp_path, message)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_44_every_weight_of_both_backends_has_to_be_a_number(backend, tmp_path):
    names = load_safetensors(model_files.folder()["model.safetensors"])
    for number, name in enumerate(sorted(names)[:: 1 if backend == "native" else 7]):
        files = weights(**{name: math.nan})(model_files.folder())
        refused(files or {}, tmp_path / str(number), f"tensor '{name}' has values that are not finite", backend)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_44_files_of_a_folder_cut(file, share, tmp_path):
    files = model_files.folder()
    files[file] = files[file][: int(len(files[file]) * share)]
    refused(files, tmp_path, rf"{file}: (cannot be read|this is no tokenizer)")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("../../x.safetensors", "must be the name of a .safetensors file in the same folder"),
        ("..", "must be the name"),
        ("a.safetensors\0", "must be the name"),
        ("\0.safetensors", r"cannot be read"),
        ("x" * 300 + ".safetensors", r"cannot be read"),
        ("c.safetensors", r"c\.safetensors: cannot be read"),
    ],
)
def test_44_an_index_that_leads_elsewhere(file, message, tmp_path):
    files = model_files.folder(is_sharded=True)
    index = json.loads(files["model.safetensors.index.json"])
    index["weight_map"][EMBEDDING] = file
    refused(files | {"model.safetensors.index.json": json.dumps(index).encode()}, tmp_path, message)


# config.json

LIES = {
    **{key: [-1, 0, True, 2**31, 10**18, 1.5, "8", math.nan] for key in ("hidden_size", "num_attention_heads")},
    "num_hidden_layers": [-1, 0, True, 10**18, [2], math.nan],
    "vocab_size": [-1, 0, 10**18, VOCAB_SIZE - 1, VOCAB_SIZE + 1],
    "intermediate_size": [-1, 0, 10**18, 95],
    "num_key_value_heads": [-1, 0, 3, 10**18],
    "head_dim": [-1, 0, 31, 2**30],
    "rms_norm_eps": [-1e-5, math.nan, math.inf, "1e-5"],
    "rope_theta": [-1, 0, 1, math.nan, math.inf, 10**400],
    "max_position_embeddings": [-1, 0, 10**18, math.inf],
    "eos_token_id": [-1, VOCAB_SIZE, 2**40, True, "2", [[1]]],
    "hidden_act": ["gelu", 5],
    "rope_scaling": [{"type": "?"}, 5],
    "architectures": [[], "LlamaForCausalLM", [5], ["X" * 100_000]],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in LIES.items() for value in values])
def test_44_a_config_that_lies(key, value, tmp_path):
    files = model_files.folder()
    config = json.loads(files["config.json"]) | {key: value}
    if key == "architectures" and value == []:
        del config["model_type"]
    refused(
        files | {"config.json": json.dumps(config).encode()}, tmp_path, r"config\.json: |tensor|embedding|rotary|end"
    )


@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"])
def test_44_a_config_without_a_key(key, tmp_path):
    files = model_files.folder()
    config = {name: value for name, value in json.loads(files["config.json"]).items() if name != key}
    refused(files | {"config.json": json.dumps(config).encode()}, tmp_path, rf"config\.json: the key {key} is missing")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"[" * 10**6, b'{"a":' * 10**5, b"9" * 10**6, b"{} {}"])
def test_44_a_config_that_is_no_object(content, tmp_path):
    refused(
        model_files.folder() | {"config.json": content}, tmp_path, r"config\.json: (cannot be read as|holds a) JSON"
    )


# Tokenizers


def tokenizer(change: Callable[[dict[str, Any]], Any]) -> Change:
    def changed(files: Files) -> Files:
        source = json.loads(files["tokenizer.json"])
        change(source)
        return files | {"tokenizer.json": json.dumps(source).encode()}

    return changed


TOKENIZERS: dict[str, tuple[Change, str]] = {
    "id past every row": (tokenizer(lambda s: s["model"]["vocab"].update(he=2**32 - 1)), "ids up to 4294967295"),
    "id behind the last row": (tokenizer(lambda s: s["model"]["vocab"].update(x=VOCAB_SIZE)), "embedding only"),
    "id negative": (tokenizer(lambda s: s["model"]["vocab"].update(he=-1)), "no tokenizer that can be used"),
    "id of 65 bits": (tokenizer(lambda s: s["model"]["vocab"].update(he=2**64)), "no tokenizer that can be used"),
    "merge of no token": (
        tokenizer(lambda s: s["model"]["merges"].append(["q", "zz"])),
        "no tokenizer that can be used",
    ),
    "merge in circles": (
        tokenizer(lambda s: s["model"]["merges"].extend([["he", "he"], ["hehe", "he"]])),
        "no tokenizer that can be used",
    ),
    "regular expression that is none": (
        tokenizer(lambda s: s.update(pre_tokenizer=split_by("((("))),
        "no tokenizer that can be used",
    ),
    "nesting": (
        lambda files: files | {"tokenizer.json": b'{"pre_tokenizer":' * 10_000},
        "no tokenizer that can be used",
    ),
    "decoder unknown": (
        tokenizer(lambda s: s.update(decoder={"type": "WordPiece", "prefix": "", "cleanup": True})),
        "dec",
    ),
    "no decoder": (tokenizer(lambda s: s.update(decoder=None)), "the tokenizer has no decoder"),
    "five million tokens": (
        tokenizer(lambda s: s["model"]["vocab"].update({f"t{n}": n for n in range(VOCAB_SIZE, 10**5)})),
        "the tokenizer has 100000 tokens",
    ),
    "roles that are lists": (
        lambda files: files | {"tokenizer_config.json": b'{"eos_token": ["a"]}'},
        "stands in the place of a token",
    ),
}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split_by(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_44_a_tokenizer_that_lies(name, tmp_path):
    change, message = TOKENIZERS[name]
    refused(change(model_files.folder()) or {}, tmp_path, message)


def test_44_a_regular_expression_that_never_ends_costs_the_text_and_not_the_server(tmp_path):
    endless = {"type": "Sequence", "pretokenizers": [split_by("(a+)+$"), BYTES]}
    files = tokenizer(lambda source: source.update(pre_tokenizer=endless))(model_files.folder())
    encode = load_files(files or {}, tmp_path).tokenizer.encode

    for mark in ("", "#"):
        with pytest.raises(ValueError, match="regular expressions give up on"):
            encode("a" * 40 + mark + "!", mark=mark)
    assert encode("b")


# Chat templates

TEMPLATES = {
    "loops in loops": ("{% for a in range(99999) %}" * 3 + "x" + "{% endfor %}" * 3, "more than"),
    "nesting": ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "RecursionError"),
    "blocks in blocks": (
        "{% if a %}" * 200 + "{% endif %}" * 200,
        "IndentationError|SyntaxError|RecursionError|MemoryError",
    ),
    "a text times a billion": ("{{ 'x' * 10 ** 9 }}", "makes texts or lists of more than"),
    "a text that doubles": (
        "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "makes texts or lists of more than",
    ),
    "a wide field": ("{{ '%0999999999d' % 1 }}", "makes texts or lists of more than"),
    "nines": ("{{ 9 ** (9 ** 9) }}", "enormous numbers"),
    "another language": ("{% python %}import os{% endpython %}", "unknown tag 'python'"),
    "half a surrogate pair behind an answer": (TEMPLATE.replace("<|im_end|>", "\ud800"), "JSON|surrogate"),
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("place", ["folder", "gguf"])
def test_44_a_template_that_is_a_bomb(name, place, tmp_path, monkeypatch):
    monkeypatch.setattr(template_bounds, "MOST_SECONDS", 0.5)
    source, message = TEMPLATES[name]
    refused(with_template(source, place, tmp_path), tmp_path, f"{message}|not UTF-8")


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__.__mro__[1].__subclasses__()",
        "cycler.__init__.__globals__.os.system('touch %s')",
        "(lipsum | attr('__globals__'))['os'].system('touch %s')",
        "messages.__class__.__base__.__subclasses__()[0]",
        "'{0.__class__.__init__.__globals__}'.format(raise_exception)",
        "joiner.__call__.__globals__['__builtins__']['open']('%s', 'w')",
    ],
)
def test_44_a_template_that_reaches_out_has_nothing_in_reach(expression, tmp_path):
    canary = tmp_path / "canary"
    source = "{{ " + expression.replace("%s", str(canary)) + " }}"
    template = load_files(with_template(source, "folder", tmp_path), tmp_path).chat_template
    assert template

    with pytest.raises(ValueError, match="unsafe|undefined|no attribute"):
        template.render([{"role": "user", "content": "a"}])
    assert not canary.exists()


def with_template(source: str, place: str, folder: Path) -> Files:
    if place == "folder":
        config = {"chat_template": source, "eos_token": SPECIAL[1]}
        return model_files.folder() | {"tokenizer_config.json": json.dumps(config).encode()}
    return gguf_with(folder, **{"tokenizer.chat_template": (source.encode("utf-8", "surrogatepass"), "STRING")})


# GGUF


def gguf_with(folder: Path, **keys: tuple[Any, str] | None) -> Files:
    """A file in which some keys are others, or are not there."""
    made = model_files.writer()
    for name, value in keys.items():
        if value is None:
            del made.kv_data[0][name]
        else:
            kind = gguf.GGUFValueType[value[1]]
            item = gguf.GGUFValueType.STRING if isinstance(value[0], list) and isinstance(value[0][0], str) else None
            item = item or (gguf.GGUFValueType.INT32 if isinstance(value[0], list) else None)
            made.kv_data[0][name] = gguf.gguf_writer.GGUFValue(value[0], kind, item)
    return {"model.gguf": model_files.saved(made, folder / "seed")}


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
    path = model_files.io.BytesIO(model_files.minimind()["model.pth"])
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
        "safetensors": (SAFETENSORS["header longer than memory"][0](model_files.folder()) or {}, "model.safetensors: "),
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
