"""The decoder: token ids and their positions in, hidden states out, keys and values left in the cache.

Positions and cache are arguments, so nothing here remembers a request. Letters in shapes as in `model/config.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from model.torch_backend.attention import CacheView
from model.torch_backend.layers import AdaptedRows, GatedMlp, Linear, MixtureOfExperts, RMSNorm, Rotation


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    layer: int
    head_dim: int
    num_kv_heads: int
    qkv: Linear  # E -> (H + 2K) * D
    output: Linear  # H*D -> E
    qk_norm: RMSNorm | None  # of weight [H + K, D]

    def __call__(
        self, x: Tensor, rotate: Rotation, cache: CacheView, adapted: Sequence[AdaptedRows]
    ) -> Tensor:  # [T, E] -> [T, E]
        heads = self.qkv(x, adapted).view(len(x), -1, self.head_dim)  # [T, H + 2K, D]
        qk, value = heads[:, : -self.num_kv_heads], heads[:, -self.num_kv_heads :]
        if self.qk_norm is not None:
            qk = self.qk_norm(qk)
        qk = rotate(qk)  # [T, H + K, D]
        query, key = qk[:, : -self.num_kv_heads], qk[:, -self.num_kv_heads :]
        cache.append(self.layer, key, value)
        return self.output(cache.attend(self.layer, query), adapted)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    attention_norm: RMSNorm
    attention: Attention
    mlp_norm: RMSNorm
    mlp: GatedMlp | MixtureOfExperts

    def __call__(
        self, x: Tensor, rotate: Rotation, cache: CacheView, adapted: Sequence[AdaptedRows]
    ) -> Tensor:  # [T, E] -> [T, E]
        x = x + self.attention(self.attention_norm(x), rotate, cache, adapted)
        y = self.mlp_norm(x)
        return x + (self.mlp(y, adapted) if isinstance(self.mlp, GatedMlp) else self.mlp(y))


@dataclass(frozen=True, slots=True, eq=False)
class Transformer:
    embedding: Tensor  # [V, E]
    blocks: tuple[Block, ...]  # L
    norm: RMSNorm
    head: Linear  # E -> V
    rope_inverse: Tensor  # [D/2] float32
    rope_scale: float

    @property
    def vocab_size(self) -> int:
        return len(self.embedding)

    def forward(
        self, token_ids: Tensor, positions: Tensor, cache: CacheView, adapted: Sequence[AdaptedRows] = ()
    ) -> Tensor:
        """[T] token ids at [T] positions, whose rows in the cache `cache` knows -> hidden states [T, E]. A row is at
        most in one of `adapted`."""
        assert token_ids.ndim == 1 and token_ids.shape == positions.shape, (token_ids.shape, positions.shape)
        rotate = Rotation.at(positions, self.rope_inverse, self.rope_scale)
        x = F.embedding(token_ids, self.embedding)
        for block in self.blocks:
            x = block(x, rotate, cache, adapted)
        return x

    def final(self, hidden: Tensor) -> Tensor:
        """[N, E] -> [N, E], normed: what the head reads, and what embeddings are made of."""
        assert hidden.ndim == 2 and hidden.shape[1] == self.embedding.shape[1], hidden.shape
        return self.norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """[S, E] -> [S, V] float32, for those tokens whose successors are wanted."""
        return self.head(self.final(hidden)).float()
