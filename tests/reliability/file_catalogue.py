"""Models whose files lie, for entry 44 of the catalogue, and what their refusal has to be: in time, by name, short."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest

from model.errors import ModelError
from model.load import LoadedModel, load
from model.options import LoadOptions
from tests.reliability import model_files
from tests.reliability.model_files import SPECIAL, Files

SECONDS = 20.0  # generous: nothing takes one
Change = Callable[[Files], Files]


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


def header(change: Callable[[dict[str, Any]], Any], length: int | None = None) -> Change:
    def changed(files: Files) -> Files:
        entries, values = model_files.split_safetensors(files["model.safetensors"])
        entries = change(entries) or entries
        return files | {"model.safetensors": model_files.safetensors_file(entries, values, length)}

    return changed


def with_template(source: str, place: str, folder: Path) -> Files:
    if place == "folder":
        config = {"chat_template": source, "eos_token": SPECIAL[1]}
        return model_files.folder() | {"tokenizer_config.json": json.dumps(config).encode()}
    return gguf_with(folder, **{"tokenizer.chat_template": (source.encode("utf-8", "surrogatepass"), "STRING")})


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
