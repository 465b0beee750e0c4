"""The filters of step 7 of the rule in `sampling.py`: which weights are left to draw from.

In place, and row by row: no row's filter sees another row, and a sum over a row has one order whatever the number of
rows. Only rows that ask for a filter pay for it.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from model.batch import SamplingParams

WINDOWS = (128, 2048)  # largest weights that are sorted in the hope that top_k and top_p end among them


def apply_filters(
    weights: Tensor, logits: Tensor, params: Sequence[SamplingParams], struck_by_xtc: Sequence[int]
) -> None:
    """weights [R, V] float32, 1 the largest of each row, of logits [R, V]. `struck_by_xtc`: rows that lose their most
    likely tokens."""
    if near := [i for i, p in enumerate(params) if p.top_n_sigma > 0]:
        some = torch.tensor(near, device=weights.device)
        weights[some] = _near_the_largest(weights[some], logits[some], [params[i].top_n_sigma for i in near])
    if typical := [i for i, p in enumerate(params) if p.typical_p < 1]:
        some = torch.tensor(typical, device=weights.device)
        asked = [params[i] for i in typical]
        top = _no_smaller_than(weights[some], _least_weights(weights[some], [replace(p, top_p=1.0) for p in asked]))
        weights[some] = _typical(top, [p.typical_p for p in asked])
    _no_smaller_than(weights, torch.maximum(_least_weights(weights, params), _least_by_min_p(weights, params)))
    if struck_by_xtc:
        some = torch.tensor(struck_by_xtc, device=weights.device)
        thresholds = [params[i].xtc_threshold for i in struck_by_xtc]
        weights[some] = _without_top_choices(weights[some], thresholds)


def _no_smaller_than(weights: Tensor, least: Tensor) -> Tensor:
    """In place: weights [R, V] below their row's least [R] become 0."""
    return weights.masked_fill_(weights < least[:, None], 0)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)[:, None]


def _sum(values: Tensor) -> Tensor:
    """[R, V] -> [R, 1], float64, from the first to the last."""
    return values.cumsum(-1, dtype=torch.float64)[:, -1:]


def _near_the_largest(weights: Tensor, logits: Tensor, num_sigmas: Sequence[float]) -> Tensor:
    """top_n_sigma."""
    wide, is_finite = logits.double(), logits.isfinite()
    count = is_finite.sum(-1, keepdim=True)
    mean = _sum(wide.where(is_finite, 0)) / count
    sigma = (_sum((wide - mean).square().where(is_finite, 0)) / count).sqrt()
    return weights.masked_fill(wide < wide.amax(-1, keepdim=True) - _column(num_sigmas, wide) * sigma, 0)


def _typical(weights: Tensor, shares: Sequence[float]) -> Tensor:
    """typical_p, of which the shares are the values."""
    wide, whole = weights.double(), _sum(weights)
    probabilities = wide / whole
    entropy = _sum(torch.special.entr(probabilities))
    distances = (-probabilities.log() - entropy).abs()  # infinite where the weight is 0
    order = distances.sort(stable=True).indices
    last = torch.searchsorted(wide.gather(1, order).cumsum(-1), _column(shares, wide) * whole)  # [R, 1]
    is_taken = torch.arange(weights.shape[-1], device=weights.device) <= last  # in that order
    return torch.zeros_like(weights).scatter_(1, order, weights.gather(1, order).where(is_taken, 0))


def _least_by_min_p(weights: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """The least weight [R] that min_p keeps; 0 where there is no limit."""
    shares = weights.new_tensor([p.min_p for p in params])
    typical = [i for i, p in enumerate(params) if p.typical_p < 1]  # all other filters before it keep the largest
    return shares * weights.amax(-1) if typical else shares


def _without_top_choices(weights: Tensor, thresholds: Sequence[float]) -> Tensor:
    """XTC ("exclude top choices")."""
    counts = (weights >= _column(thresholds, weights) * _sum(weights)) & (weights > 0)
    least = weights.where(counts, torch.inf).amin(-1, keepdim=True)
    return weights.masked_fill(weights > least, 0)


def _least_weights(weights: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """The least weight [R] that top_k and top_p keep; 0 where there is no limit."""
    vocab_size = weights.shape[-1]
    least = weights.new_zeros(len(params))
    pending = [i for i, p in enumerate(params) if 0 < p.top_k < vocab_size or p.top_p < 1]
    for window in sorted({min(size, vocab_size) for size in (*WINDOWS, vocab_size)}):
        if not pending:
            break
        some = torch.tensor(pending, device=weights.device)
        found, is_exact = _least_in_window(weights[some], window, [params[i] for i in pending])
        least[some] = found
        pending = [i for i, done in zip(pending, is_exact.tolist(), strict=True) if not done]
    return least


def _least_in_window(weights: Tensor, window: int, params: Sequence[SamplingParams]) -> tuple[Tensor, Tensor]:
    """`_least_weights` from the `window` largest of each row, and whether the rest could not have changed it."""
    vocab_size = weights.shape[-1]
    top = weights.topk(window).values  # [R, W], largest first
    top_p = weights.new_tensor([p.top_p for p in params], dtype=torch.float64)[:, None]
    has_top_k = torch.tensor([0 < p.top_k < vocab_size for p in params], device=weights.device)
    ranks = [min(p.top_k or vocab_size, window) for p in params]
    kth = top.gather(1, torch.tensor(ranks, device=weights.device)[:, None] - 1)  # [R, 1]
    running = top.masked_fill(top < kth, 0).cumsum(-1, dtype=torch.float64)
    everything = weights.cumsum(-1, dtype=torch.float64)[:, -1:]  # a sum in one order, whatever the number of rows
    aim = top_p * torch.where(has_top_k[:, None], running[:, -1:], everything)
    reached = torch.searchsorted(running, aim)  # [R, 1]
    least = top.gather(1, reached.clamp(max=window - 1))
    ends_inside = torch.where(has_top_k[:, None], top[:, -1:] < kth, reached < window)
    nothing_outside = (top[:, -1:] == 0) | (window == vocab_size)
    return least.squeeze(-1), (ends_inside | nothing_outside).squeeze(-1)
