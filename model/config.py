"""What a model is: the dimensions every format is read into and every backend builds from.

Letters in shapes, everywhere in `model/`: B requests, T tokens in the step, H query heads, K key-value heads, D head
dimension, E hidden size, F feed-forward size, X experts, V vocabulary, L layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

RopeKind = Literal["default", "linear", "llama3", "yarn"]


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding, always in the half-split form: pair i is (x[i], x[i + D/2]). Formats whose pairs lie
    side by side are permuted when they are read. `model/rope.py` turns this into frequencies."""

    theta: float = 10000.0
    kind: RopeKind = "default"
    factor: float = 1.0
    original_max_positions: int | None = None
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn; None: 0.1 ln(factor) + 1, or from the two mscales
    mscale: float | None = None  # yarn
    mscale_all_dim: float | None = None  # yarn
    truncate: bool = True  # yarn: the range of the ramp is rounded to whole pairs
    frequency_divisors: tuple[float, ...] = ()  # GGUF's rope_freqs.weight: one for each pair, instead of a kind


@dataclass(frozen=True, slots=True)
class MoeConfig:
    num_experts: int  # X
    num_experts_per_token: int
    intermediate_size: int  # F of one expert
    norm_topk_prob: bool  # divide the chosen experts' weights by their sum
    num_shared_experts: int = 0  # S: of the same size, for every token and with weight 1, beside those that are chosen
    dense_layers: frozenset[int] = frozenset()  # layers that have an ordinary MLP all the same


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder-only transformer: pre-norm RMSNorm, grouped-query attention with rotary positions, SiLU-gated MLP."""

    architecture: str  # "llama", "qwen2", "qwen3", "qwen3moe": for people; the fields below decide
    vocab_size: int  # V, rows of the embedding
    hidden_size: int  # E
    intermediate_size: int  # F
    num_layers: int  # L
    num_heads: int  # H
    num_kv_heads: int  # K
    head_dim: int  # D, not always E / H
    rms_norm_eps: float
    max_positions: int
    rope: RopeConfig = field(default_factory=RopeConfig)
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False  # on the attention's output projection
    mlp_bias: bool = False
    qk_norm: bool = False  # RMSNorm over D on queries and keys, before rotation
    moe: MoeConfig | None = None

    def is_moe_layer(self, layer: int) -> bool:
        return self.moe is not None and layer not in self.moe.dense_layers

    def tensor_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor of such a model under its canonical name (Hugging Face's, experts apart), with its shape. One
        after the other: whoever stops at the first that a file lacks pays nothing for layers that are not there."""
        yield "model.embed_tokens.weight", (self.vocab_size, self.hidden_size)
        for layer in range(self.num_layers):
            block = self._attention_shapes() | self._mlp_shapes(layer)
            yield from ((f"model.layers.{layer}.{name}", shape) for name, shape in block.items())
        yield "model.norm.weight", (self.hidden_size,)
        if not self.tie_word_embeddings:
            yield "lm_head.weight", (self.vocab_size, self.hidden_size)

    def _attention_shapes(self) -> dict[str, tuple[int, ...]]:
        query, key = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (self.hidden_size,),
            "self_attn.q_proj.weight": (query, self.hidden_size),
            "self_attn.k_proj.weight": (key, self.hidden_size),
            "self_attn.v_proj.weight": (key, self.hidden_size),
            "self_attn.o_proj.weight": (self.hidden_size, query),
            "post_attention_layernorm.weight": (self.hidden_size,),
        }
        if self.qkv_bias:
            shapes["self_attn.q_proj.bias"] = (query,)
            shapes["self_attn.k_proj.bias"] = shapes["self_attn.v_proj.bias"] = (key,)
        if self.output_bias:
            shapes["self_attn.o_proj.bias"] = (self.hidden_size,)
        if self.qk_norm:
            shapes |= {f"self_attn.{name}_norm.weight": (self.head_dim,) for name in "qk"}
        return shapes

    def _mlp_shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        if self.moe is None or not self.is_moe_layer(layer):
            return self._gated_mlp_shapes("mlp.", self.intermediate_size)
        shapes: dict[str, tuple[int, ...]] = {"mlp.gate.weight": (self.moe.num_experts, self.hidden_size)}
        for expert in range(self.moe.num_experts):
            shapes |= self._gated_mlp_shapes(f"mlp.experts.{expert}.", self.moe.intermediate_size)
        return shapes

    def _gated_mlp_shapes(self, prefix: str, intermediate_size: int) -> dict[str, tuple[int, ...]]:
        up, down = (intermediate_size, self.hidden_size), (self.hidden_size, intermediate_size)
        shapes: dict[str, tuple[int, ...]] = {}
        for name, shape in (("gate", up), ("up", up), ("down", down)):
            shapes[f"{prefix}{name}_proj.weight"] = shape
            if self.mlp_bias:
                shapes[f"{prefix}{name}_proj.bias"] = shape[:1]
        return shapes
