"""What every format is read into: a config and named tensors, as the file has them, nothing missing, nothing left over.

Tensors stay memory-mapped in the file's own encoding; a backend decides what to make of them. No torch here: a backend
that does not need it must not pay for its import.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from model.config import ModelConfig
from model.errors import ModelError
from model.rope import rope_frequencies

# Decoded at once, a whole number of blocks in every encoding: what it takes beyond the result stays in the processor's
# cache.
_SLAB_VALUES = 1 << 15


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
        block, block_bytes = GGML_QUANT_SIZES[kind]
        content = self.data.reshape(-1)
        values = np.empty(math.prod(self.shape), dtype=np.float32)
        for first in range(0, values.size, _SLAB_VALUES):
            part = values[first : first + _SLAB_VALUES]
            start, end = (place // block * block_bytes for place in (first, first + part.size))
            with np.errstate(over="ignore", invalid="ignore"):  # said below, as an error
                part[...] = quants.dequantize(content[start:end], kind)
            if not np.isfinite(part).all():
                raise ModelError(
                    self.path, f"tensor '{self.file_name}' has values that are not finite (NaN, infinity)."
                )
        return values.reshape(self.shape)


# Far beyond what any author recommends; much further on logits overflow, and each request that trusts in it fails.
MOST_TEMPERATURE = 100.0
LEAST_PENALTY, MOST_PENALTY = 0.01, 100.0


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
    """A model read from disk, checked against its own config. Raises ModelError."""

    path: Path
    config: ModelConfig
    weights: Mapping[str, WeightTensor]  # by canonical name: ModelConfig.tensor_shapes
    eos_token_ids: frozenset[int] = frozenset()  # those the model's files name beyond the tokenizer's own
    generation: GenerationDefaults = field(default_factory=GenerationDefaults)
    origin: str = ""  # what it was before it was read, for people: "MiniMind2", "GGUF llama"

    def __post_init__(self) -> None:
        self._check_tensors()
        self._check_eos_token_ids()
        self._check_rotation()

    def _check_tensors(self) -> None:
        left_over = dict(self.weights)
        for name, shape in self.config.tensor_shapes():
            tensor = left_over.pop(name, None)
            if tensor is None:
                raise ModelError(self.path, f"tensor {name} is missing; a {self.config.architecture} model has it.")
            if tensor.shape != shape:
                raise ModelError(
                    tensor.path, f"tensor {tensor.file_name} has shape {tensor.shape}; the config asks for {shape}."
                )
        for tensor in left_over.values():
            raise ModelError(tensor.path, f"tensor {tensor.file_name} is left over; the config has no place for it.")

    def _check_eos_token_ids(self) -> None:
        """They are compared with tokens, and, as long as an answer must go on, struck from the logits."""
        for token_id in self.eos_token_ids:
            if not 0 <= token_id < self.config.vocab_size:
                vocabulary = f"the vocabulary of {self.config.vocab_size} tokens"
                raise ModelError(self.path, f"the end of text, token id {token_id}, is not in {vocabulary}.")

    def _check_rotation(self) -> None:
        try:
            rope_frequencies(self.config.rope, self.config.head_dim, self.config.max_positions)
        except ValueError as error:
            raise ModelError(self.path, f"{error}.") from error

    @property
    def has_float16_matrices(self) -> bool:
        """And no others."""
        return {tensor.encoding for tensor in self.weights.values() if len(tensor.shape) > 1} == {"F16"}

    @property
    def num_parameters(self) -> int:
        return sum(int(np.prod(tensor.shape)) for tensor in self.weights.values())
