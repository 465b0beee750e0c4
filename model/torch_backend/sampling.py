"""From logits to tokens. This is the rule that every backend follows; each row is chosen from by itself:

1.  Log-probabilities that are reported are those of the model's own distribution: log_softmax of the raw logits.
2.  While the output has fewer than `min_tokens` tokens, the logits of `suppressed_token_ids` are -infinity.
3.  Repetition penalty r: the logit x of every token in prompt or output becomes x / r if x > 0, else x * r. Then, for a
    token that stands n > 0 times in the output, x - presence_penalty - n * frequency_penalty.
4.  Temperature 0: the largest logit wins, the lowest token id among equals. Else each token has the weight
    w = exp((x - max x) / temperature), in float32; the largest weight is 1.
5.  top_k: weights below the k-th largest become 0 (those equal to it stay). Then top_p: of what is left, weights are
    taken from the largest down until their sum reaches top_p times the whole; smaller ones become 0 (those equal to
    the last taken stay; at least one is taken). Then min_p: weights below min_p become 0.
6.  One number u in [0, 1) from `philox.uniforms`, keyed by the row's seed and the position of the token to be chosen
    (the number of tokens before it). The token is the first, in order of token ids, at which the running sum of
    weights, in float64, is greater than u times the whole sum.

So a token depends on its row, its seed and its position only. A row whose logits have a NaN, or no finite maximum, is
an error of that row; so is one in which no token is left to choose. Owns no state: what a slot has seen so far comes
with the row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.batch import NO_CHOICE, NOT_FINITE, ChunkResult, SamplingParams
from model.torch_backend.penalties import TokenCounts, has_penalties, penalize
from model.torch_backend.philox import uniforms

WINDOWS = (128, 2048)  # largest weights that are sorted in the hope that top_k and top_p end among them
# Below it float32 has no reciprocal; the result is greedy long before.
MIN_TEMPERATURE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """What is known of a row beside its logits."""

    params: SamplingParams
    position: int  # of the token to be chosen
    num_output_tokens: int  # before it
    counts: TokenCounts | None = None  # where there are penalties

    @property
    def suppressed_token_ids(self) -> tuple[int, ...]:
        return self.params.suppressed_token_ids if self.num_output_tokens < self.params.min_tokens else ()

    @property
    def takes_raw_maximum(self) -> bool:
        return self.params.temperature == 0 and not self.suppressed_token_ids and not has_penalties(self.params)


def sample(logits: Tensor, rows: Sequence[SamplingRow]) -> list[ChunkResult]:
    """logits [S, V] float32, one row of each of `rows`; they are not changed."""
    assert logits.ndim == 2 and len(logits) == len(rows), (logits.shape, len(rows))
    largest = logits.max(-1)  # NaN where there is one; the first index among equals
    tokens, is_finite = largest.indices, largest.values.isfinite()
    has_choice = is_finite
    adjusted = [i for i, row in enumerate(rows) if not row.takes_raw_maximum]
    if adjusted:
        some = torch.tensor(adjusted, device=logits.device)
        chosen, is_chosen = _choose(logits[some], [rows[i] for i in adjusted])
        tokens, has_choice = tokens.index_copy(0, some, chosen), has_choice.index_copy(0, some, is_chosen)
    return _results(logits, rows, tokens, _errors(is_finite, has_choice))


def _errors(is_finite: Tensor, has_choice: Tensor) -> list[str | None]:
    pairs = zip(is_finite.tolist(), has_choice.tolist(), strict=True)
    return [None if chosen else NO_CHOICE if finite else NOT_FINITE for finite, chosen in pairs]


def _choose(logits: Tensor, rows: Sequence[SamplingRow]) -> tuple[Tensor, Tensor]:
    """Steps 2 to 6, in place: tokens [R], and whether there was one to choose [R]."""
    params = [row.params for row in rows]
    for row, logit in zip(rows, logits, strict=True):
        if row.suppressed_token_ids:
            logit[list(row.suppressed_token_ids)] = -torch.inf
    penalize(logits, [row.counts for row in rows], params)
    largest = logits.max(-1)
    tokens, has_choice = largest.indices, largest.values.isfinite()
    drawn = [i for i, p in enumerate(params) if p.temperature > 0]
    if drawn:
        some = torch.tensor(drawn, device=logits.device)
        offsets = (logits - largest.values[:, None])[some]  # the largest is 0
        drawn_tokens, is_drawn = _draw(offsets, [rows[i] for i in drawn])
        tokens, has_choice = tokens.index_copy(0, some, drawn_tokens), has_choice.index_copy(0, some, is_drawn)
    return tokens, has_choice


def _draw(offsets: Tensor, rows: Sequence[SamplingRow]) -> tuple[Tensor, Tensor]:
    """offsets [R, V] of logits from their largest -> tokens [R], and whether a weight above zero was left [R]."""
    params = [row.params for row in rows]
    temperatures = [max(p.temperature, MIN_TEMPERATURE) for p in params]
    weights = (offsets / offsets.new_tensor(temperatures)[:, None]).exp()  # [R, V]
    least = torch.maximum(_least_weights(weights, params), weights.new_tensor([p.min_p for p in params]))
    running = weights.masked_fill(weights < least[:, None], 0).cumsum(-1, dtype=torch.float64)
    seeds = np.array([row.params.seed for row in rows], dtype=np.uint64)
    positions = np.array([row.position for row in rows], dtype=np.uint64)
    whole = running[:, -1:]
    aim = torch.from_numpy(uniforms(seeds, positions)[:, None]).to(weights.device) * whole
    aim = torch.minimum(aim, torch.nextafter(whole, torch.zeros_like(whole)))  # the product may round up to the whole
    token = torch.searchsorted(running, aim, right=True).squeeze(-1)
    token = token.clamp(max=weights.shape[-1] - 1)  # out of range only in a row without a choice
    return token, (whole > 0).squeeze(-1)


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
    return least.squeeze(-1), (ends_inside | (window == vocab_size)).squeeze(-1)


def _results(
    logits: Tensor, rows: Sequence[SamplingRow], tokens: Tensor, errors: Sequence[str | None]
) -> list[ChunkResult]:
    wanted = [i for i, row in enumerate(rows) if row.params.num_logprobs is not None]
    reports = dict(zip(wanted, _logprobs(logits, rows, tokens, wanted), strict=True)) if wanted else {}
    results = []
    for i, (token_id, error) in enumerate(zip(tokens.tolist(), errors, strict=True)):
        logprob, top = reports.get(i, (None, ()))
        results.append(ChunkResult(token_id, logprob, top) if error is None else ChunkResult(error=error))
    return results


Report = tuple[float, tuple[tuple[int, float], ...]]  # ChunkResult's logprob and top_logprobs


def _logprobs(logits: Tensor, rows: Sequence[SamplingRow], tokens: Tensor, wanted: Sequence[int]) -> list[Report]:
    some = torch.tensor(wanted, device=logits.device)
    logprobs = logits[some].log_softmax(-1)  # [W, V]
    own = logprobs.gather(1, tokens[some, None]).squeeze(-1).tolist()
    nums = [rows[i].params.num_logprobs or 0 for i in wanted]
    top = logprobs.topk(min(max(nums), logprobs.shape[-1]))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    tops = [tuple(zip(ids, values, strict=True)) for ids, values in pairs]
    return [(logprob, best[:num]) for logprob, best, num in zip(own, tops, nums, strict=True)]
