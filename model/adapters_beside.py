"""LoRA adapters that MiniMind's training leaves beside a model's checkpoint, and which of them are for this one: by
names and shapes alone. What they do to a model is not this module's business.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.config import ModelConfig
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint, WeightTensor
from model.load import read_pth

FOLDERS = (".", "lora")  # beside the checkpoint, where scripts of different years look
_NAME = re.compile(r"(?P<module>.+)\.lora\.(?P<side>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class AdapterBeside:
    path: Path
    rank: int | None  # None: it does not fit
    problem: str = ""  # why not


def find_adapters(checkpoint: Checkpoint) -> tuple[AdapterBeside, ...]:
    """Those that are named for a model of this width, `lora_<name>_<hidden>….pth`."""
    path, config = checkpoint.path, checkpoint.config
    place = path if path.is_dir() else path.parent
    pattern = f"lora_*_{config.hidden_size}*.pth"
    files = (file for folder in FOLDERS for file in sorted((place / folder).glob(pattern)))
    return tuple(_look_at(file, config) for file in files)


def _look_at(path: Path, config: ModelConfig) -> AdapterBeside:
    try:
        return AdapterBeside(path, _rank(path, read_pth(path), config))
    except ModelError as error:
        return AdapterBeside(path, None, error.problem)


def _rank(path: Path, tensors: Mapping[str, WeightTensor], config: ModelConfig) -> int:
    """Of B A, which is added to a matrix [N, K]: A is [rank, K], B is [N, rank]. Raises ModelError where one is not."""
    shapes = dict(config.tensor_shapes())
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None or f"{match['module']}.weight" not in shapes:
            raise ModelError(path, f"tensor {name} is for no matrix of this model.")
        sides.setdefault(f"{match['module']}.weight", {})[match["side"]] = tensor.shape
    ranks = {_rank_of_pair(path, name, pair, shapes[name]) for name, pair in sides.items()}
    if not ranks:
        raise ModelError(path, "there is no tensor in it.")
    return max(ranks)


def _rank_of_pair(path: Path, name: str, pair: Mapping[str, tuple[int, ...]], shape: tuple[int, ...]) -> int:
    rank = pair.get("A", (0,))[0]
    if pair != {"A": (rank, shape[-1]), "B": (shape[0], rank)}:
        raise ModelError(path, f"its matrices for {name}, {pair}, do not fit that tensor's {shape}.")
    return rank
