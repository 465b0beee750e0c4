"""From logits to tokens. This is the rule that every backend follows; each row is chosen from by itself:

1.  Log-probabilities that are reported are those of the model's own distribution: log_softmax of the raw logits.
2.  While the output has fewer than `min_tokens` tokens, the logits of `suppressed_token_ids` are -infinity.
3.  Where a chunk says what is `allowed`, the logits of all other tokens are -infinity: token t is allowed if bit t % 8,
    the least significant being bit 0, of byte t // 8 is set; bytes that are missing at the end count as 0.
4.  `logit_bias` is added to the logits, then the chunk's `biases`. What is -infinity stays so.
5.  Repetition penalty r: the logit x of every token in prompt or output becomes x / r if x > 0, else x * r. Then, for a
    token that stands n > 0 times in the output, x - presence_penalty - n * frequency_penalty.
6.  Temperature 0: the largest logit wins, the lowest token id among equals. Else each token has the weight
    w = exp((x - max x) / temperature), in float32; the largest weight is 1.
7.  The filters, in this order. What a filter takes away has weight 0 for those behind it; sums are float64.
    top_n_sigma n > 0: takes away what has x < max x - n * sigma, where x are the logits behind step 5, whatever the
        temperature, and sigma is the standard deviation of the finite ones: sqrt(mean((x - mean x)^2)), in float64.
    top_k k > 0: takes away the weights below the k-th largest (those equal to it stay).
    typical_p < 1: p = w / sum w, and H = -sum p ln p, in float64. Weights above 0 are taken in order of |-ln p - H|,
        from the smallest up, the lowest token id first among equals, until their sum reaches typical_p times the
        whole (at least one is taken). The others go.
    top_p < 1: weights are taken from the largest down until their sum reaches top_p times the whole; smaller ones go
        (those equal to the last taken stay; at least one is taken).
    min_p > 0: takes away the weights below min_p times the largest that is left, in float32.
    xtc_probability > 0: where the second number of step 8 is less than it, those weights above 0 count that are at
        least xtc_threshold times the sum of what is left. All that are larger than the least of these go (so at least
        one stays, and none goes where fewer than two count).
8.  One number u in [0, 1) from `philox.uniforms`, keyed by the row's seed and the position of the token to be chosen
    (the number of tokens before it); `philox.second_uniforms` gives the second one. The token is the first, in order
    of token ids, at which the running sum of weights, in float64, is greater than u times the whole sum.

So a token depends on its row, its seed and its position only. A row whose logits have a NaN, or no finite maximum, is
an error of that row; so is one in which no token is left to choose. Owns no state: what a slot has seen so far comes
with the row. Steps 2 to 5 are in `edits.py`, 7 in `filters.py`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.batch import NO_CHOICE, NOT_FINITE, ChunkResult
from model.torch_backend.edits import SamplingRow, edit
from model.torch_backend.filters import apply_filters
from model.torch_backend.logprobs import report
from model.torch_backend.philox import Words, second_uniforms, uniforms

# Below it float32 has no reciprocal; the result is greedy long before.
MIN_TEMPERATURE = float(np.finfo(np.float32).tiny)


def sample(logits: Tensor, rows: Sequence[SamplingRow]) -> list[ChunkResult]:
    """logits [S, V] float32, one row of each of `rows`; they are not changed."""
    assert logits.ndim == 2 and len(logits) == len(rows), (logits.shape, len(rows))
    largest = logits.max(-1)  # NaN where there is one; the first index among equals
    tokens, is_finite = largest.indices, largest.values.isfinite()
    has_choice = is_finite
    adjusted = [i for i, row in enumerate(rows) if row.params.temperature > 0 or row.is_edited]
    if adjusted:
        some = torch.tensor(adjusted, device=logits.device)
        chosen, is_chosen = _choose(logits[some], [rows[i] for i in adjusted])
        tokens, has_choice = tokens.index_copy(0, some, chosen), has_choice.index_copy(0, some, is_chosen)
    return _results(logits, rows, tokens, _errors(is_finite, has_choice))


def _errors(is_finite: Tensor, has_choice: Tensor) -> list[str | None]:
    pairs = zip(is_finite.tolist(), has_choice.tolist(), strict=True)
    return [None if finite and chosen else NO_CHOICE if finite else NOT_FINITE for finite, chosen in pairs]


def _choose(logits: Tensor, rows: Sequence[SamplingRow]) -> tuple[Tensor, Tensor]:
    """Steps 2 to 8, in place: tokens [R], and whether there was one to choose [R]."""
    edit(logits, rows)
    largest = logits.max(-1)
    tokens, has_choice = largest.indices, largest.values.isfinite()
    drawn = [i for i, row in enumerate(rows) if row.params.temperature > 0]
    if drawn:
        some = torch.tensor(drawn, device=logits.device)
        drawn_tokens, is_drawn = _draw(logits[some], largest.values[some], [rows[i] for i in drawn])
        tokens, has_choice = tokens.index_copy(0, some, drawn_tokens), has_choice.index_copy(0, some, is_drawn)
    return tokens, has_choice


def _draw(logits: Tensor, largest: Tensor, rows: Sequence[SamplingRow]) -> tuple[Tensor, Tensor]:
    """Steps 6 to 8. logits [R, V], largest [R] -> tokens [R], and whether a weight above zero was left [R]."""
    params = [row.params for row in rows]
    temperatures = [max(p.temperature, MIN_TEMPERATURE) for p in params]
    weights = ((logits - largest[:, None]) / logits.new_tensor(temperatures)[:, None]).exp()  # [R, V]
    apply_filters(weights, logits, params, _rows_that_xtc_strikes(rows))
    running = weights.cumsum(-1, dtype=torch.float64)
    whole = running[:, -1:]
    aim = torch.from_numpy(uniforms(*_keys(rows))[:, None]).to(weights.device) * whole
    aim = torch.minimum(aim, torch.nextafter(whole, torch.zeros_like(whole)))  # the product may round up to the whole
    token = torch.searchsorted(running, aim, right=True).squeeze(-1)
    token = token.clamp(max=weights.shape[-1] - 1)  # out of range only in a row without a choice
    return token, (whole > 0).squeeze(-1)


def _rows_that_xtc_strikes(rows: Sequence[SamplingRow]) -> list[int]:
    asked = [i for i, row in enumerate(rows) if row.params.xtc_probability > 0]
    if not asked:
        return []
    numbers = second_uniforms(*_keys([rows[i] for i in asked]))
    return [i for i, number in zip(asked, numbers, strict=True) if number < rows[i].params.xtc_probability]


def _keys(rows: Sequence[SamplingRow]) -> tuple[Words, Words]:
    """Seeds and positions."""
    seeds = np.array([row.params.seed for row in rows], dtype=np.uint64)
    return seeds, np.array([row.position for row in rows], dtype=np.uint64)


def _results(
    logits: Tensor, rows: Sequence[SamplingRow], tokens: Tensor, errors: Sequence[str | None]
) -> list[ChunkResult]:
    nums = {i: row.params.num_logprobs for i, row in enumerate(rows) if row.params.num_logprobs is not None}
    wanted = torch.tensor(list(nums), dtype=torch.int64, device=logits.device)
    reports = dict(zip(nums, report(logits[wanted], tokens[wanted], list(nums.values())), strict=True))
    results = []
    for i, (token_id, error) in enumerate(zip(tokens.tolist(), errors, strict=True)):
        if error is not None:
            results.append(ChunkResult(error=error))
        elif i in reports:
            results.append(ChunkResult(token_id, reports[i].logprob, reports[i].top_logprobs))
        else:
            results.append(ChunkResult(token_id))
    return results
