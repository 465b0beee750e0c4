"""A checkpoint's tensors become a model of the library: each in the encoding that `options.py` chose for it, checked to
be numbers. The library repacks what it is given, and this side keeps nothing; the file's pages are only mapped.
"""

import logging
import math
import re
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from model.config import ModelConfig
from model.errors import ModelError
from model.formats.adapter import Adapter
from model.formats.checkpoint import Checkpoint, WeightTensor
from model.memory import free_memory, require_room_for_weights
from model.native.library import BLOCK_BYTES, NativeError, NativeLibrary, NativeUnavailable, row_bytes
from model.native.options import FLOATS, KEPT, NativeOptions, check_weights, choose_encodings
from model.native.structs import ConfigStruct, Encoding, Place, Role
from model.rope import rope_frequencies

log = logging.getLogger(__name__)

NAMES = {
    Encoding.F32: "float32",
    Encoding.BF16: "bfloat16",
    Encoding.Q8: "int8",
    Encoding.Q4_0: "q4_0",
    Encoding.Q4_1: "q4_1",
}
ROLES = {
    "model.embed_tokens": Role.EMBEDDING,
    "model.norm": Role.FINAL_NORM,
    "lm_head": Role.LM_HEAD,
    "input_layernorm": Role.ATTENTION_NORM,
    "self_attn.q_proj": Role.Q,
    "self_attn.k_proj": Role.K,
    "self_attn.v_proj": Role.V,
    "self_attn.o_proj": Role.O,
    "self_attn.q_norm": Role.Q_NORM,
    "self_attn.k_norm": Role.K_NORM,
    "post_attention_layernorm": Role.MLP_NORM,
    "mlp.gate_proj": Role.GATE,
    "mlp.up_proj": Role.UP,
    "mlp.down_proj": Role.DOWN,
    "mlp.gate": Role.ROUTER,
}
_NAME = re.compile(r"(?:model\.layers\.(?P<layer>\d+)\.)?(?P<stem>.+)\.(?P<kind>weight|bias)")
_EXPERT = re.compile(r"mlp\.(?P<shared>shared_)?experts\.(?P<expert>\d+)\.(?P<part>.+)")
VOCABULARY = (Role.EMBEDDING, Role.LM_HEAD)
_SLAB_VALUES = 1 << 18  # converted at once

# The exponent bits of the floats in an encoding: a number that has them all set is not finite. Of a block of quantised
# weights: those of its scale, and minimum.
EXPONENTS = {
    Encoding.F32: ("<u4", 0x7F80_0000),
    Encoding.BF16: ("<u2", 0x7F80),
    Encoding.Q8: ("<u2", 0x7C00),
    Encoding.Q4_0: ("<u2", 0x7C00),
    Encoding.Q4_1: ("<u2", 0x7C00),
}
FLOAT_BYTES = {Encoding.Q8: 2, Encoding.Q4_0: 2, Encoding.Q4_1: 4}  # at the head of a block


class NativeModel:
    """Weights in the library's memory, from now on unchanged. They are freed with this object."""

    def __init__(
        self,
        library: NativeLibrary,
        checkpoint: Checkpoint,
        options: NativeOptions,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        """Raises NativeUnavailable where the library has no way to run such a model, ModelError where a weight is not a
        number, cannot be what is asked for, or is too much for the memory."""
        check_weights(options, checkpoint)
        num_bytes = least_bytes(checkpoint, options) + sum(adapter.num_bytes for adapter in adapters)
        require_room_for_weights(checkpoint.path, num_bytes, free_memory())
        try:
            self.address = _new_model(library, checkpoint.config, options.instruction_set)
            weakref.finalize(self, library.free_model, self.address).atexit = False  # the system does it faster
            self.dtype = _fill(library, self.address, checkpoint, options)
            _fill_adapters(library, self.address, checkpoint.config, adapters)
            self.num_bytes = library.model_bytes(self.address)
        except NativeError as error:
            raise NativeUnavailable(f"it cannot run this model: {error}") from error


def _new_model(library: NativeLibrary, config: ModelConfig, instruction_set: str | None) -> int:
    rope = rope_frequencies(config.rope, config.head_dim, config.max_positions)
    inverse = np.ascontiguousarray(rope.inverse, dtype=np.float64)
    is_moe_layer = np.array([config.is_moe_layer(layer) for layer in range(config.num_layers)], dtype=np.uint8)
    moe = config.moe
    struct = ConfigStruct(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        num_experts=moe.num_experts if moe else 0,
        num_experts_per_token=moe.num_experts_per_token if moe else 0,
        num_shared_experts=moe.num_shared_experts if moe else 0,
        expert_intermediate_size=moe.intermediate_size if moe else 0,
        norm_topk_prob=moe.norm_topk_prob if moe else 0,
        qk_norm=config.qk_norm,
        rms_norm_eps=config.rms_norm_eps,
        rope_scale=rope.scale,
        rope_inverse=inverse.ctypes.data,
        is_moe_layer=is_moe_layer.ctypes.data,
    )
    return library.new_model(struct, instruction_set)


def least_bytes(checkpoint: Checkpoint, options: NativeOptions) -> int:
    """Of the matrices in memory, before they are padded."""
    total = 0
    for name, tensor in checkpoint.weights.items():
        if len(tensor.shape) == 2:
            is_vocabulary = place_of(name, checkpoint.config)[0].role in VOCABULARY
            choices = choose_encodings(tensor, options, is_vocabulary=is_vocabulary)
            total += tensor.shape[0] * min(row_bytes(encoding, tensor.shape[1]) for encoding in choices)
    return total


def place_of(name: str, config: ModelConfig) -> tuple[Place, bool]:
    """Of a canonical name (`ModelConfig.tensor_shapes`): where it belongs, and whether it is a bias. The shared experts
    are numbered behind the routed ones."""
    match = _NAME.fullmatch(name)
    assert match, name
    stem, expert = match["stem"], 0
    if of_expert := _EXPERT.fullmatch(stem):
        first = config.moe.num_experts if config.moe and of_expert["shared"] else 0
        stem, expert = "mlp." + of_expert["part"], first + int(of_expert["expert"])
    return Place(ROLES[stem], int(match["layer"] or 0), expert), match["kind"] == "bias"


def _fill(library: NativeLibrary, model: int, checkpoint: Checkpoint, options: NativeOptions) -> str:
    """Hands over every tensor. Returns the name of the encoding that most of the matrices' values have."""
    num_values: Counter[Encoding] = Counter()
    changes: Counter[tuple[str, Encoding]] = Counter()
    for name, tensor in sorted(checkpoint.weights.items(), key=lambda item: item[0].endswith(".bias")):  # biases last
        place, is_bias = place_of(name, checkpoint.config)
        if is_bias:
            library.set_bias(model, place, tensor.to_float32())
        elif len(tensor.shape) == 1 or place.role is Role.ROUTER:
            values = np.atleast_2d(tensor.to_float32())
            library.set_matrix(model, place, Encoding.F32, values.view(np.uint8))
        else:
            choices = choose_encodings(tensor, options, is_vocabulary=place.role in VOCABULARY)
            encoding, rows = encode_nearest(library, tensor, choices)
            library.set_matrix(model, place, encoding, rows)
            num_values[encoding] += math.prod(tensor.shape)
            changes[tensor.encoding, encoding] += 1
    _tell(checkpoint, options, changes)
    return NAMES[num_values.most_common(1)[0][0]]


def _fill_adapters(library: NativeLibrary, model: int, config: ModelConfig, adapters: Sequence[Adapter]) -> None:
    for number, adapter in enumerate(adapters, 1):
        for weight, pair in adapter.pairs.items():
            library.set_adapter(model, number, place_of(weight, config)[0], pair.a, pair.b)


def _tell(checkpoint: Checkpoint, options: NativeOptions, changes: Mapping[tuple[str, Encoding], int]) -> None:
    """One line about tensors that became something else than the file has, or the user asked for."""
    surprises = [
        f"{num} tensors in {before} become {NAMES[after]}"
        for (before, after), num in sorted(changes.items())
        if is_surprise(before, after, options)
    ]
    if surprises:
        log.info("%s: for the native backend %s", checkpoint.path, ", ".join(surprises))


def is_surprise(before: str, after: Encoding, options: NativeOptions) -> bool:
    if options.weights != "auto":
        return after is Encoding.BF16
    return options.dtype == "auto" and before not in FLOATS and KEPT.get(before) is not after


def encode_nearest(
    library: NativeLibrary, tensor: WeightTensor, choices: tuple[Encoding, ...]
) -> tuple[Encoding, np.ndarray]:
    """The choice whose values are nearest to the tensor's, in the mean of their squares, and the tensor in it."""
    encoded = [(encoding, encode(library, tensor, encoding)) for encoding in choices]
    return encoded[0] if len(encoded) == 1 else min(encoded, key=lambda one: squared_error(tensor, *one))


def encode(library: NativeLibrary, tensor: WeightTensor, encoding: Encoding) -> np.ndarray:
    """uint8 [N, bytes of a row]. Raises ModelError where a value is not finite in that encoding."""
    if KEPT.get(tensor.encoding) is encoding:
        rows = np.ascontiguousarray(tensor.data)
    else:
        rows = np.empty((tensor.shape[0], row_bytes(encoding, tensor.shape[1])), dtype=np.uint8)
        for part, out in zip(slabs(tensor), slabs_of(tensor, rows), strict=True):
            if encoding is Encoding.F32:
                out[...] = part.to_float32().view(np.uint8)
            else:
                library.quantize(encoding, part.to_float32(), out)
    if not all(is_finite(encoding, part) for part in slabs_of(tensor, rows)):
        problem = f"tensor '{tensor.file_name}' has values that are not finite in {NAMES[encoding]}."
        raise ModelError(tensor.path, problem)
    return rows


def slabs_of(tensor: WeightTensor, rows: np.ndarray) -> Iterator[np.ndarray]:
    """A few rows at a time, as views."""
    step = max(1, _SLAB_VALUES // tensor.shape[1])
    return (rows[first : first + step] for first in range(0, len(rows), step))


def slabs(tensor: WeightTensor) -> Iterator[WeightTensor]:
    for data in slabs_of(tensor, tensor.data):
        yield WeightTensor((len(data), tensor.shape[1]), tensor.encoding, data, tensor.path, tensor.file_name)


def is_finite(encoding: Encoding, rows: np.ndarray) -> bool:
    """Whether everything that these bytes say is a finite number."""
    kind, exponent = EXPONENTS[encoding]
    if encoding in FLOAT_BYTES:
        rows = np.ascontiguousarray(rows.reshape(-1, BLOCK_BYTES[encoding])[:, : FLOAT_BYTES[encoding]])
    return bool((rows.view(kind) & exponent != exponent).all())


def squared_error(tensor: WeightTensor, encoding: Encoding, rows: np.ndarray) -> float:
    """Between the tensor's values and those of its encoded rows."""
    names = {after: before for before, after in KEPT.items()}
    encoded = WeightTensor(tensor.shape, names[encoding], rows, tensor.path, tensor.file_name)
    differences = (a.to_float32() - b.to_float32() for a, b in zip(slabs(tensor), slabs(encoded), strict=True))
    return sum(float(np.square(part, dtype=np.float64).sum()) for part in differences)
