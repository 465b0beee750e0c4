"""Where MiniMind's golden files lie, and the tests' reason to skip where they do not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

MINIMIND = Path(__file__).parents[3] / "shared" / "data" / "minimind"
GOLDEN = MINIMIND / "golden"
EXPORTS = MINIMIND / "hf"

needs_minimind = pytest.mark.skipif(
    not MINIMIND.is_dir(), reason="needs MiniMind's golden files (../shared/data/minimind)"
)

# Of each chat template that MiniMind has had: its tokenizer's folder, and the file there that it stands in.
TEMPLATE_FILES = {
    "v1": ("v1", "tokenizer_config.json"),
    "v2-early": ("v1", "tokenizer_config.v2-early.json"),
    "v2-250426": ("v2", "tokenizer_config.250426.json"),
    "v2": ("v2", "tokenizer_config.json"),
    "v3": ("v3", "tokenizer_config.json"),
}


def tokenizer_folder(era: str, folder: Path) -> Path:
    """Made in `folder`: tokenizer and template of that era as they came together."""
    name, config = TEMPLATE_FILES[era]
    shutil.copy(MINIMIND / "tokenizers" / name / "tokenizer.json", folder)
    shutil.copy(MINIMIND / "tokenizers" / name / config, folder / "tokenizer_config.json")
    return folder


def golden_lines(kind: str, name: str) -> list[dict[str, Any]]:
    """`kind`: templates, tokens, decode."""
    return [json.loads(line) for line in (MINIMIND / kind / f"{name}.jsonl").read_text("utf-8").splitlines()]
