"""Entry 44 of the catalogue of what a server must survive, in Hugging Face folders: safetensors, config.json,
tokenizers and chat templates that are cut, that lie, or that were made to do harm. Each is named to `load` as a user
would. What single readers refuse is in `tests/model/formats`; here is what a whole model can have."""

import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from model import template_bounds
from tests.reliability import model_files
from tests.reliability.file_catalogue import Change, header, load_files, refused, with_template
from tests.reliability.model_files import TEMPLATE, VOCAB_SIZE, Files

NORM = "model.layers.0.input_layernorm.weight"
EMBEDDING = "model.embed_tokens.weight"


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
    refused(change(model_files.folder()), tmp_path, message)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_44_every_weight_of_both_backends_has_to_be_a_number(backend, tmp_path):
    names = load_safetensors(model_files.folder()["model.safetensors"])
    for number, name in enumerate(sorted(names)[:: 1 if backend == "native" else 7]):
        files = weights(**{name: math.nan})(model_files.folder())
        refused(files, tmp_path / str(number), f"tensor '{name}' has values that are not finite", backend)


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
    refused(change(model_files.folder()), tmp_path, message)


def test_44_a_regular_expression_that_never_ends_costs_the_text_and_not_the_server(tmp_path):
    endless = {"type": "Sequence", "pretokenizers": [split_by("(a+)+$"), BYTES]}
    files = tokenizer(lambda source: source.update(pre_tokenizer=endless))(model_files.folder())
    encode = load_files(files, tmp_path).tokenizer.encode

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
