"""The parts of a transformer, each a frozen value that is called: weights inside, activations through.

Letters in shapes as in `model/config.py`. On a CPU in float32 a row's product is the same bits whatever other rows are
in the call, for products run on tiles of a fixed number of rows; all else is computed row by row or number by number.
What this backend promises of it all is equal tokens: torch may still round an exponential differently at the seams
between threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 8  # of every float32 product on a CPU; BLAS sums in another order for another number of rows


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedRows:
    """Rows of a step that an adapter changes."""

    adapter: int  # from 0 on
    rows: Tensor  # [N] int64, each once


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    weight: Tensor  # [out, in]
    bias: Tensor | None = None  # [out]
    adapters: tuple["LowRank | None", ...] = ()  # of each adapter; None: it changes nothing here

    def __call__(self, x: Tensor, adapted: Sequence[AdaptedRows] = ()) -> Tensor:  # [T, in] -> [T, out]
        """An adapter's rows are taken out and computed together, so that a row is the same whatever the others are."""
        out = self._product(x)
        for some in adapted:
            low_rank = self.adapters[some.adapter]
            if low_rank is not None:
                out.index_add_(0, some.rows, low_rank(x[some.rows]))  # a row is here once: its sum has one order
        return out

    def _product(self, x: Tensor) -> Tensor:
        assert x.ndim == 2 and x.shape[1] == self.weight.shape[1], (x.shape, self.weight.shape)
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return F.linear(x, self.weight, self.bias)
        num_rows = len(x)
        x = F.pad(x, (0, 0, 0, -num_rows % ROWS))
        products = [F.linear(tile, self.weight, self.bias) for tile in torch.split(x, ROWS)]
        return (products[0] if len(products) == 1 else torch.cat(products))[:num_rows]


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """B A, which an adapter adds to a matrix."""

    a: Linear  # in -> r
    b: Linear  # r -> out

    def __call__(self, x: Tensor) -> Tensor:  # [N, in] -> [N, out]
        return self.b(self.a(x))


@dataclass(frozen=True, slots=True, eq=False)
class RMSNorm:
    """x / sqrt(mean(x^2) + eps) * weight, all of it in float32 and rounded once, at the end. (Reference code rounds
    before it multiplies; the two differ in bfloat16 only, where this one is the closer.)"""

    weight: Tensor  # [..., N] float32, N: the dimension that is normalised
    eps: float

    def __call__(self, x: Tensor) -> Tensor:  # [..., N] -> [..., N]
        wide = x.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * inverse * self.weight).to(x.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """Rotary positions of the tokens of one step: pair (x[i], x[i + D/2]) turns by an angle of its own."""

    cos: Tensor  # [T, 1, D] float32, both halves alike
    signed_sin: Tensor  # [T, 1, D] float32, the first half negated

    @classmethod
    def at(cls, positions: Tensor, inverse: Tensor, scale: float) -> "Rotation":
        """`inverse` [D/2] float32. Angles are float32 products, for models are trained with these roundings."""
        angles = positions.float()[:, None, None] * inverse  # [T, 1, D/2]
        cos, sin = angles.cos() * scale, angles.sin() * scale
        return cls(torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))

    def __call__(self, x: Tensor) -> Tensor:  # [T, N, D] -> [T, N, D]
        wide = x.float()
        swapped = wide.roll(wide.shape[-1] // 2, -1)  # (x1, x2) -> (x2, x1)
        return torch.addcmul(wide * self.cos, swapped, self.signed_sin).to(x.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class GatedMlp:
    gate_up: Linear  # E -> 2F
    down: Linear  # F -> E

    def __call__(self, x: Tensor, adapted: Sequence[AdaptedRows] = ()) -> Tensor:  # [T, E] -> [T, E]
        gate, up = self.gate_up(x, adapted).chunk(2, -1)
        return self.down(F.silu(gate) * up, adapted)


@dataclass(frozen=True, slots=True, eq=False)
class MixtureOfExperts:
    """Each token goes through the experts that its router weighs most, whose outputs are added with those weights, and
    through the shared ones, whose outputs are added as they are."""

    router: Linear  # E -> X
    experts: tuple[GatedMlp, ...]  # X
    num_per_token: int  # A
    norm_weights: bool
    shared_experts: tuple[GatedMlp, ...] = ()  # S

    def __call__(self, x: Tensor) -> Tensor:  # [T, E] -> [T, E]
        output = self._routed(x)
        for expert in self.shared_experts:
            output = output + expert(x)
        return output

    def _routed(self, x: Tensor) -> Tensor:  # [T, E] -> [T, E]
        weights, experts = self._route(x)
        order = experts.flatten().argsort(stable=True)  # [T*A] assignments by expert, then by token
        counts = experts.flatten().bincount(minlength=len(self.experts)).tolist()
        output = torch.zeros_like(x)
        for expert, assigned in zip(self.experts, torch.split(order, counts), strict=True):
            if len(assigned):
                tokens = assigned // self.num_per_token
                weighted = expert(x[tokens]) * weights.flatten()[assigned, None]
                output.index_add_(0, tokens, weighted)  # a token is here once, so its sum has one order: the experts'
        return output

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor]:  # [T, E] -> weights, experts: [T, A] each
        probabilities = self.router(x).float().softmax(-1)  # over all X
        weights, experts = probabilities.topk(self.num_per_token, -1)
        if self.norm_weights:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights.to(x.dtype), experts
