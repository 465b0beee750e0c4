"""Log-probabilities of the model's own distribution: of tokens that were chosen, and of those of a prompt.

Always of raw logits, so nothing here knows how a token is chosen.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.batch import TargetLogprob
from model.torch_backend.transformer import Transformer

MAX_LOGITS = 16 * 2**20  # of a prompt at a time: 64 MiB, whatever the length of a chunk


def report(logits: Tensor, token_ids: Tensor, nums: Sequence[int]) -> list[TargetLogprob]:
    """Of each row of logits [S, V] its token of token_ids [S] and, of nums [S], so many most likely ones."""
    if not nums:
        return []
    logprobs = logits.log_softmax(-1)
    own = logprobs.gather(1, token_ids[:, None]).squeeze(-1).tolist()
    top = logprobs.topk(min(max(nums), logprobs.shape[-1]))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    tops = [tuple(zip(ids, values, strict=True)) for ids, values in pairs]
    return [TargetLogprob(logprob, best[:num]) for logprob, best, num in zip(own, tops, nums, strict=True)]


def report_targets(
    transformer: Transformer, hidden: Tensor, targets: Sequence[int], num_top: int
) -> tuple[TargetLogprob, ...] | None:
    """Of targets[i] behind row i of hidden states [N, E], with the `num_top` most likely tokens there. None where
    logits are not finite."""
    token_ids = torch.tensor(targets, dtype=torch.int64, device=hidden.device)
    size = max(1, MAX_LOGITS // transformer.vocab_size)
    reports: list[TargetLogprob] = []
    for start in range(0, len(targets), size):
        part = token_ids[start : start + size]
        logits = transformer.logits(hidden[start : start + len(part)])  # [size, V]
        if not logits.amax(-1).isfinite().all():
            return None
        reports += report(logits, part, [num_top] * len(part))
    return tuple(reports)
