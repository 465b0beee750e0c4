"""A model's tokenizer and chat template as a folder that transformers' AutoTokenizer reads: for tools that want one on
disk, of a model that has none there, such as a GGUF file. Nothing else of the model is written."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from model.chat_template import ChatTemplate
from model.errors import ExportError
from model.formats.json_object import JsonObject
from model.load import Parts, locate, read_parts
from model.options import LoadOptions

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
MARK = {"exported_by": "slotwise"}  # in the config: this folder may be written again
UNFINISHED = ".slotwise-"  # what a process that was killed leaves behind


def export_tokenizer(options: LoadOptions, folder: Path) -> None:
    """Of the model that the options name, if it is one that can be served. Makes the folder, or takes one that is empty
    or an export already. Raises ModelError or ExportError, and then what was there is as it was."""
    write(read_parts(locate(options), options), folder)


def write(parts: Parts, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_free(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as unfinished:
            for name, text in contents(parts).items():
                Path(unfinished, name).write_text(text, "utf-8")
            for name in (TOKENIZER, CONFIG):
                os.replace(Path(unfinished, name), folder / name)
    except OSError as error:
        raise ExportError(folder, f"cannot be written: {error.strerror}.") from error


def _require_free(folder: Path) -> None:
    names = {path.name for path in folder.iterdir() if not path.name.startswith(UNFINISHED)}
    if names and not (names <= {TOKENIZER, CONFIG} and _is_export(folder / CONFIG)):
        raise ExportError(folder, "the folder is not empty, and not an export of slotwise; name another one.")


def _is_export(config: Path) -> bool:
    try:
        return JsonObject.read(config).values.items() >= MARK.items()
    except ValueError:
        return False


def contents(parts: Parts) -> dict[str, str]:
    """Text by file name."""
    return {
        TOKENIZER: parts.tokenizer.backend.to_str(pretty=True),
        CONFIG: json.dumps(_config(parts), ensure_ascii=False, indent=2) + "\n",
    }


def _config(parts: Parts) -> dict[str, Any]:
    """The class is the one that takes tokenizer.json as it is, whatever the model's own would make of it. The chat
    template stands here and not in a file of its own, which older readers do not look for."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **parts.tokenizer.special_tokens,
        "clean_up_tokenization_spaces": False,
        "model_max_length": parts.checkpoint.config.max_positions,
    }
    if parts.chat_template:
        config["chat_template"] = _template(parts.chat_template)
    return config | MARK


def _template(template: ChatTemplate) -> str | list[dict[str, str]]:
    if template.tool_use_source is None:
        return template.source
    sources = {"default": template.source, "tool_use": template.tool_use_source}
    return [{"name": name, "template": source} for name, source in sources.items()]
