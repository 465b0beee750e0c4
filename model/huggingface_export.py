"""Any model that can be served as a Hugging Face folder: config, weights, tokenizer with its chat template, sampling
defaults. For transformers and for whatever reads its folders; slotwise serves the folder too.

The folder appears whole or not at all: it is written under another name beside its place. What a process that was
killed leaves behind begins with `.slotwise-`.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model.errors import ExportError
from model.formats.huggingface_writer import config_of, generation_config_of, one_or_all
from model.formats.safetensors_writer import write_safetensors
from model.load import Parts, locate, read_parts
from model.options import DTypeName, LoadOptions
from model.tokenizer_export import UNFINISHED, contents
from model.tokenizer_match import ends_of_text

ENCODINGS: dict[DTypeName, str | None] = {"auto": None, "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def export(options: LoadOptions, folder: Path, dtype: DTypeName = "auto") -> None:
    """Of the model that the options name. `folder` must not be there, or be empty. `dtype` auto: floats as they are
    stored, what is quantised as float16. Raises ModelError or ExportError, and then nothing has been written."""
    write(read_parts(locate(options), options), folder, dtype)


def write(parts: Parts, folder: Path, dtype: DTypeName = "auto") -> None:
    checkpoint, asked = parts.checkpoint, ENCODINGS[dtype]
    token_ids = _special_token_ids(parts)
    texts = {
        "config.json": _json(config_of(checkpoint, token_ids, asked)),
        "generation_config.json": _json(generation_config_of(checkpoint.generation, token_ids)),
        **contents(parts),
    }
    with _whole(folder) as unfinished:
        for name, text in texts.items():
            (unfinished / name).write_text(text, "utf-8")
        write_safetensors(unfinished / "model.safetensors", checkpoint.weights, asked)


def _special_token_ids(parts: Parts) -> dict[str, Any]:
    tokenizer = parts.tokenizer
    named = {
        f"{role}_token_id": tokenizer.backend.token_to_id(tokenizer.special_tokens[f"{role}_token"])
        for role in ("bos", "pad")
        if f"{role}_token" in tokenizer.special_tokens
    }
    return named | {"eos_token_id": one_or_all(ends_of_text(parts.checkpoint, tokenizer))}


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `folder` once all is written."""
    place = folder.resolve()  # a link stays one
    try:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise ExportError(folder, "is there already, and no empty folder; name another one.")
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=UNFINISHED) as beside:
            unfinished = Path(beside, place.name)
            unfinished.mkdir()
            yield unfinished
            if place.exists():  # Windows renames onto nothing
                place.rmdir()
            unfinished.rename(place)
    except OSError as error:
        raise ExportError(folder, f"cannot be written: {error.strerror}.") from error
