"""A checkpoint's tensors become a `Transformer`: decoded, cast, fused, and checked to be numbers.

Each tensor is written straight into its place in the fused one, so that no model is ever in memory twice; the file's
pages are only mapped. Knows tensor names; never files or their formats.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from model.config import ModelConfig
from model.errors import ModelError
from model.formats.adapter import Adapter
from model.formats.checkpoint import Checkpoint, WeightTensor
from model.rope import rope_frequencies
from model.torch_backend.layers import GatedMlp, Linear, LowRank, MixtureOfExperts, RMSNorm
from model.torch_backend.transformer import Attention, Block, Transformer

DTYPES_BY_ENCODING = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def build_transformer(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, adapters: Sequence[Adapter] = ()
) -> Transformer:
    """Raises ModelError where a weight is not finite, or not in the given dtype."""
    config, reader = checkpoint.config, _Reader(checkpoint.weights, device, dtype, adapters)
    embedding = reader.matrix("model.embed_tokens.weight")
    rope = rope_frequencies(config.rope, config.head_dim, config.max_positions)
    return Transformer(
        embedding=embedding,
        blocks=tuple(_block(config, reader, layer) for layer in range(config.num_layers)),
        norm=RMSNorm(reader.vector("model.norm.weight"), config.rms_norm_eps),
        head=Linear(embedding) if config.tie_word_embeddings else reader.linear("lm_head"),
        rope_inverse=torch.from_numpy(rope.inverse).float().to(device),
        rope_scale=rope.scale,
    )


class _Reader:
    def __init__(
        self,
        weights: Mapping[str, WeightTensor],
        device: torch.device,
        dtype: torch.dtype,
        adapters: Sequence[Adapter],
    ) -> None:
        self._weights = weights
        self._adapters = adapters
        self._device = device
        self._dtype = dtype

    def matrix(self, *names: str) -> Tensor:
        """The rows of these tensors, one under the other, in the model's dtype."""
        return self._stack(names, self._dtype)

    def vector(self, name: str) -> Tensor:
        """Of a norm: float32, whatever the model's dtype, for norms are computed in float32."""
        return self._stack([name], torch.float32)

    def linear(self, *names: str) -> Linear:
        """These projections as one, with their biases where they have them."""
        biases = [f"{name}.bias" for name in names if f"{name}.bias" in self._weights]
        assert len(biases) in (0, len(names)), biases
        weights = [f"{name}.weight" for name in names]
        adapters = tuple(self._low_rank(adapter, weights) for adapter in self._adapters)
        return Linear(self.matrix(*weights), self.matrix(*biases) if biases else None, adapters)

    def _low_rank(self, adapter: Adapter, weights: Sequence[str]) -> LowRank | None:
        """Of matrices that are one under the other: the As likewise, and each B beside the rows of its own matrix."""
        pairs = [adapter.pairs.get(weight) for weight in weights]
        if not any(pairs):
            return None
        rows = [self._weights[weight].shape[0] for weight in weights]
        a = torch.cat([torch.from_numpy(pair.a) for pair in pairs if pair])
        b, rank = torch.zeros(sum(rows), len(a)), 0
        for pair, some in zip(pairs, torch.split(b, rows), strict=True):
            if pair:
                some[:, rank : rank + pair.rank] = torch.from_numpy(pair.b)
                rank += pair.rank
        return LowRank(Linear(self._placed(adapter, a)), Linear(self._placed(adapter, b)))

    def _placed(self, adapter: Adapter, values: Tensor) -> Tensor:
        placed = values.to(self._device, self._dtype)
        if not placed.isfinite().all():
            raise ModelError(adapter.path, f"has values that are not finite in {_name(self._dtype)}.")
        return placed

    def _stack(self, names: Sequence[str], dtype: torch.dtype) -> Tensor:
        tensors = [self._weights[name] for name in names]
        num_rows = [tensor.shape[0] for tensor in tensors]
        stacked = torch.empty(sum(num_rows), *tensors[0].shape[1:], dtype=dtype)
        for tensor, part in zip(tensors, torch.split(stacked, num_rows), strict=True):
            _fill(part, tensor)
        return stacked.to(self._device)


def _fill(target: Tensor, tensor: WeightTensor) -> None:
    if DTYPES_BY_ENCODING.get(tensor.encoding) == target.dtype:
        target.view(torch.uint8).numpy()[...] = tensor.data  # the same bytes: no detour
    else:
        target.copy_(torch.from_numpy(tensor.to_float32()))
    if not target.isfinite().all():
        problem = f"tensor '{tensor.file_name}' has values that are not finite in {_name(target.dtype)}."
        raise ModelError(tensor.path, problem)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _block(config: ModelConfig, reader: _Reader, layer: int) -> Block:
    prefix = f"model.layers.{layer}."
    return Block(
        attention_norm=RMSNorm(reader.vector(prefix + "input_layernorm.weight"), config.rms_norm_eps),
        attention=_attention(config, reader, layer, prefix + "self_attn."),
        mlp_norm=RMSNorm(reader.vector(prefix + "post_attention_layernorm.weight"), config.rms_norm_eps),
        mlp=_mixture(config, reader, prefix) if config.is_moe_layer(layer) else _gated_mlp(reader, prefix + "mlp."),
    )


def _attention(config: ModelConfig, reader: _Reader, layer: int, prefix: str) -> Attention:
    return Attention(
        layer=layer,
        head_dim=config.head_dim,
        num_kv_heads=config.num_kv_heads,
        qkv=reader.linear(*(f"{prefix}{name}_proj" for name in "qkv")),
        output=reader.linear(prefix + "o_proj"),
        qk_norm=_qk_norm(config, reader, prefix) if config.qk_norm else None,
    )


def _qk_norm(config: ModelConfig, reader: _Reader, prefix: str) -> RMSNorm:
    """Queries and keys are normalised in one go, each head by its own row."""
    query = reader.vector(prefix + "q_norm.weight").expand(config.num_heads, -1)
    key = reader.vector(prefix + "k_norm.weight").expand(config.num_kv_heads, -1)
    return RMSNorm(torch.cat((query, key)), config.rms_norm_eps)


def _gated_mlp(reader: _Reader, prefix: str) -> GatedMlp:
    return GatedMlp(reader.linear(prefix + "gate_proj", prefix + "up_proj"), reader.linear(prefix + "down_proj"))


def _mixture(config: ModelConfig, reader: _Reader, prefix: str) -> MixtureOfExperts:
    assert config.moe is not None
    shared = range(config.moe.num_shared_experts)
    return MixtureOfExperts(
        router=reader.linear(prefix + "mlp.gate"),
        experts=tuple(_gated_mlp(reader, f"{prefix}mlp.experts.{x}.") for x in range(config.moe.num_experts)),
        num_per_token=config.moe.num_experts_per_token,
        norm_weights=config.moe.norm_topk_prob,
        shared_experts=tuple(_gated_mlp(reader, f"{prefix}mlp.shared_experts.{s}.") for s in shared),
    )
