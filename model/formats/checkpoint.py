"""What every format is read into: a config and named tensors, as the file has them, nothing missing, nothing left over.

Tensors stay memory-mapped in the file's own encoding; a backend decides what to make of them. No torch here: a backend
that does not need it must not pay for its import.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, quants

from model.config import ModelConfig
from model.errors import ModelError

_SLAB_VALUES = 1 << 18  # decoded at once: what it takes beyond the result stays in the processor's cache


@dataclass(frozen=True, slots=True)
class WeightTensor:
    """A tensor as its file has it. `encoding` is GGML's name: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q6_K, …"""

    shape: tuple[int, ...]
    encoding: str
    data: np.ndarray  # uint8 [*shape[:-1], bytes of one row]: rows are whole, so rows can be sliced and permuted
    path: Path  # for error messages
    file_name: str  # the tensor's name in that file, for error messages

    def to_float32(self) -> np.ndarray:
        """The tensor's values, float32, in its shape; a copy. Raises ModelError where a value is not finite."""
        kind = GGMLQuantizationType[self.encoding]
        values = np.empty((math.prod(self.shape[:-1]), self.shape[-1]), dtype=np.float32)
        rows = self.data.reshape(len(values), -1)
        slab = max(1, _SLAB_VALUES // self.shape[-1])
        for first in range(0, len(values), slab):
            part = values[first : first + slab]
            with np.errstate(over="ignore", invalid="ignore"):  # said below, as an error
                part[...] = quants.dequantize(np.ascontiguousarray(rows[first : first + slab]), kind)
            if not np.isfinite(part).all():
                raise ModelError(
                    self.path, f"tensor '{self.file_name}' has values that are not finite (NaN, infinity)."
                )
        return values.reshape(self.shape)


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Sampling defaults that the model's authors recommend; None: not said, OpenAI's default holds."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model read from disk, checked against its own config."""

    path: Path
    config: ModelConfig
    weights: Mapping[str, WeightTensor]  # by canonical name: ModelConfig.tensor_shapes
    eos_token_ids: frozenset[int] = frozenset()  # those the model's files name beyond the tokenizer's own
    generation: GenerationDefaults = field(default_factory=GenerationDefaults)

    def __post_init__(self) -> None:
        expected = self.config.tensor_shapes()
        for name, shape in expected.items():
            tensor = self.weights.get(name)
            if tensor is None:
                raise ModelError(self.path, f"tensor {name} is missing; a {self.config.architecture} model has it.")
            if tensor.shape != shape:
                raise ModelError(
                    tensor.path, f"tensor {tensor.file_name} has shape {tensor.shape}; the config asks for {shape}."
                )
        for name in self.weights.keys() - expected.keys():
            tensor = self.weights[name]
            raise ModelError(tensor.path, f"tensor {tensor.file_name} is left over; the config has no place for it.")

    @property
    def num_parameters(self) -> int:
        return sum(int(np.prod(tensor.shape)) for tensor in self.weights.values())
