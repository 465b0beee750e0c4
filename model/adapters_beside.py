"""LoRA adapters that MiniMind's training leaves beside a model's checkpoint, and which of them are for this one."""

from dataclasses import dataclass
from pathlib import Path

from model.errors import ModelError
from model.formats.checkpoint import Checkpoint
from model.load import read_adapter

FOLDERS = (".", "lora")  # beside the checkpoint, where scripts of different years look


@dataclass(frozen=True, slots=True)
class AdapterBeside:
    path: Path
    rank: int | None  # None: it does not fit
    problem: str = ""  # why not


def find_adapters(checkpoint: Checkpoint) -> tuple[AdapterBeside, ...]:
    """Those that are named for a model of this width, `lora_<name>_<hidden>….pth`."""
    path = checkpoint.path
    place = path if path.is_dir() else path.parent
    pattern = f"lora_*_{checkpoint.config.hidden_size}*.pth"
    files = (file for folder in FOLDERS for file in sorted((place / folder).glob(pattern)))
    return tuple(_look_at(file, checkpoint) for file in files)


def _look_at(path: Path, checkpoint: Checkpoint) -> AdapterBeside:
    try:
        adapter = read_adapter(path.stem, path, checkpoint)
    except ModelError as error:
        return AdapterBeside(path, None, error.problem)
    return AdapterBeside(path, max(pair.rank for pair in adapter.pairs.values()))
