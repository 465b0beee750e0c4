"""Small GGUF files for tests: from a ModelConfig and weights under canonical names, as llama.cpp's converter would
write them. Names, keys and encodings come from the `gguf` package, so that the reader under test has no part in it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from model.config import ModelConfig, MoeConfig

# Where a block of a K-quant has its float16 scales; gguf has no quantiser for these.
_K_QUANT_SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def small_config(architecture: str = "llama", **changes: Any) -> ModelConfig:
    """Heads wider than E / H, two queries to a key; every row is a multiple of 32, so that it can be quantised."""
    moe = MoeConfig(num_experts=4, num_experts_per_token=2, intermediate_size=32, norm_topk_prob=True)
    fields: dict[str, Any] = {
        "architecture": architecture,
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 32,
        "rms_norm_eps": 2.0**-17,  # the file has float32
        "max_positions": 256,
        "qkv_bias": architecture == "qwen2",
        "qk_norm": architecture.startswith("qwen3"),
        "moe": moe if architecture == "qwen3moe" else None,
    }
    return ModelConfig(**fields | changes)


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """float32 by canonical name; norms are around 1."""
    random = np.random.default_rng(seed)
    return {
        name: (random.standard_normal(shape) / 8 + name.endswith("norm.weight")).astype(np.float32)
        for name, shape in config.tensor_shapes()
    }


def write_gguf(
    path: Path, config: ModelConfig, weights: Mapping[str, np.ndarray] | None = None, encoding: str = "F32"
) -> Path:
    save(gguf_writer(config, weights, encoding), path)
    return path


def gguf_writer(
    config: ModelConfig, weights: Mapping[str, np.ndarray] | None = None, encoding: str = "F32"
) -> gguf.GGUFWriter:
    """A writer with everything in it, to be changed or saved. `encoding` is that of the matrices, routers apart."""
    writer = gguf.GGUFWriter(None, config.architecture)
    _add_keys(writer, config)
    for name, values in _as_converted(config, random_weights(config) if weights is None else weights).items():
        is_matrix = values.ndim > 1 and "ffn_gate_inp" not in name
        add_tensor(writer, name, values, encoding if is_matrix else "F32")
    return writer


def save(writer: gguf.GGUFWriter, path: Path) -> None:
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray, encoding: str) -> None:
    kind = gguf.GGMLQuantizationType[encoding]
    writer.add_tensor(name, encode(values, encoding), raw_dtype=kind)


def encode(values: np.ndarray, encoding: str) -> np.ndarray:
    """uint8 [*shape[:-1], bytes of a row]. K-quants: blocks drawn from the values' first byte on, not near them."""
    kind = gguf.GGMLQuantizationType[encoding]
    if encoding not in _K_QUANT_SCALES:
        return np.ascontiguousarray(gguf.quants.quantize(values, kind)).view(np.uint8)
    shape = gguf.quant_shape_to_byte_shape(values.shape, kind)
    random = np.random.default_rng(int(values.view(np.uint8).flat[0]))
    blocks = random.integers(0, 256, (int(np.prod(shape)) // kind_bytes(kind), kind_bytes(kind)), dtype=np.uint8)
    for place in _K_QUANT_SCALES[encoding]:
        scales = random.uniform(0.001, 0.01, len(blocks)).astype(np.float16)
        blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(shape)


def kind_bytes(kind: gguf.GGMLQuantizationType) -> int:
    return gguf.GGML_QUANT_SIZES[kind][1]


def _add_keys(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_type("model")
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if config.moe:
        writer.add_expert_count(config.moe.num_experts)
        writer.add_expert_used_count(config.moe.num_experts_per_token)
        writer.add_expert_feed_forward_length(config.moe.intermediate_size)


def _as_converted(config: ModelConfig, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Under llama.cpp's names, experts stacked, llama's queries and keys in the order for rotating neighbours."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[config.architecture.upper()], config.num_layers)
    experts: dict[str, list[np.ndarray]] = {}
    converted: dict[str, np.ndarray] = {}
    for name, values in weights.items():
        before, is_expert, behind = name.partition(".experts.")
        merged = f"{before}.experts.{behind.split('.', 1)[1]}" if is_expert else name
        file_name = names.get_name(merged, try_suffixes=(".weight", ".bias"))
        assert file_name is not None, name
        if is_expert:
            experts.setdefault(file_name, []).append(values)
        else:
            converted[file_name] = _paired(config, name, values)
    return converted | {name: np.stack(stack) for name, stack in experts.items()}


def _paired(config: ModelConfig, name: str, values: np.ndarray) -> np.ndarray:
    num_heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2])
    if config.architecture != "llama" or num_heads is None:
        return values
    halves = values.reshape(num_heads, 2, values.shape[0] // num_heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
