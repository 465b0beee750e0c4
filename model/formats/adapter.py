"""A LoRA adapter (arXiv 2106.09685) as every format is read into: for each weight W that it changes, two thin matrices,
so that the product is W x + B (A x). Checked against the model that it is for. Knows no file's layout, and no backend.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from model.config import ModelConfig
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint, WeightTensor
from model.formats.tied_embeddings import EMBEDDING

log = logging.getLogger(__name__)

_SERVABLE = re.compile(r"model\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.weight")


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """Of rank r, for a matrix [N, K]."""

    a: np.ndarray  # float32 [r, K]
    b: np.ndarray  # float32 [N, r], the adapter's scale multiplied in

    @property
    def rank(self) -> int:
        return len(self.a)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    name: str
    path: Path
    pairs: Mapping[str, LowRank]  # by the canonical name of the weight (ModelConfig.tensor_shapes)

    @property
    def num_bytes(self) -> int:
        """In float32."""
        return sum(pair.a.nbytes + pair.b.nbytes for pair in self.pairs.values())

    def require_servable(self) -> None:
        """Raises ModelError where it changes a matrix beside which no backend has room for it."""
        for weight in self.pairs:
            if not _SERVABLE.fullmatch(weight):
                problem = f"changes {weight}, which is possible only where it is merged into the model (--merge-lora)."
                raise ModelError(self.path, problem)


@dataclass(frozen=True, slots=True)
class Half:
    """One tensor of an adapter's file, and what it is."""

    weight: str  # the canonical name of the weight that it changes
    side: Literal["A", "B"]
    tensor: WeightTensor
    scale: float = 1.0  # of B


def build_adapter(name: str, path: Path, config: ModelConfig, halves: Iterable[Half]) -> Adapter:
    """Raises ModelError, naming the tensor, where one is not a matrix of this model, has no partner, or has another
    shape than the model's matrix asks for."""
    shapes = {weight: shape for weight, shape in config.tensor_shapes() if len(shape) == 2}
    del shapes[EMBEDDING]  # rows are looked up there, not multiplied
    found: dict[str, dict[str, Half]] = {}
    for half in halves:
        tensor = half.tensor
        if half.weight not in shapes:
            raise ModelError(tensor.path, f"tensor {tensor.file_name} is for a matrix that this model has not.")
        sides = found.setdefault(half.weight, {})
        if half.side in sides:
            raise ModelError(
                tensor.path, f"tensor {tensor.file_name} is there twice, as {sides[half.side].tensor.file_name} too."
            )
        sides[half.side] = half
    if not found:
        raise ModelError(path, "there is no tensor of a LoRA adapter in it.")
    return Adapter(name, path, {weight: _pair(sides, shapes[weight]) for weight, sides in found.items()})


def _pair(sides: Mapping[str, Half], shape: tuple[int, ...]) -> LowRank:
    for side, other in ("AB", "BA"):
        if side not in sides:
            alone = sides[other].tensor
            raise ModelError(alone.path, f"tensor {alone.file_name} has no {side} beside it.")
    a, b = sides["A"], sides["B"]
    rank = a.tensor.shape[0] if a.tensor.shape else 0
    _check_shape(a.tensor, (max(rank, 1), shape[1]))
    _check_shape(b.tensor, (shape[0], rank))
    return LowRank(a.tensor.to_float32(), _scaled(b))


def _check_shape(tensor: WeightTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        problem = f"tensor {tensor.file_name} has shape {tensor.shape}; for this model it must be {shape}."
        raise ModelError(tensor.path, problem)


def _scaled(half: Half) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # said below
        values: np.ndarray = half.tensor.to_float32() * np.float32(half.scale)
    if not np.isfinite(values).all():
        raise ModelError(half.tensor.path, f"tensor {half.tensor.file_name} times {half.scale} is not finite.")
    return values


def merge(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """W + B A in the place of each W that the adapter changes, in float32, whatever encoding the file has. Raises
    ModelError where a sum is not finite."""
    merged = {weight: _sum(checkpoint.weights[weight], pair) for weight, pair in adapter.pairs.items()}
    encodings = sorted({checkpoint.weights[weight].encoding for weight in merged})
    log.info("%s: merged into %d matrices (%s), in float32", adapter.path, len(merged), ", ".join(encodings))
    return replace(checkpoint, weights={**checkpoint.weights, **merged})


def _sum(tensor: WeightTensor, pair: LowRank) -> WeightTensor:
    with np.errstate(over="ignore", invalid="ignore"):
        values = tensor.to_float32() + pair.b @ pair.a
    if not np.isfinite(values).all():
        raise ModelError(tensor.path, f"tensor '{tensor.file_name}' is not finite once the adapter is merged into it.")
    return replace(tensor, encoding="F32", data=values.view(np.uint8))
