"""The rule of `torch_backend/sampling.py` by the book: in float64, with sorts, without regard to speed. It says whether
a kernel's choice is right where the last bits of float32 decide."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.batch import ChunkResult, SamplingParams
from model.torch_backend.penalties import penalize
from model.torch_backend.philox import philox
from tests.model.native.sampling_kernel import Case

Doubles = NDArray[np.float64]


def numbers(seed: int, position: int) -> tuple[float, float]:
    """In [0, 1): that of the draw and that of XTC."""
    words = [np.array([[n & 0xFFFFFFFF] for n in (x, x >> 32, 0, 0)], dtype=np.uint64) for x in (position, seed)]
    first, second, third, fourth = (int(word) for word in philox(words[0], words[1][:2])[:, 0])
    return (first << 21 | second >> 11) / 2**53, (third << 21 | fourth >> 11) / 2**53


def edited(case: Case) -> Doubles:
    """The logits after suppression, mask, biases and penalties."""
    logits = case.logits.astype(np.float32)
    logits[list(case.suppressed)] = -np.inf
    if case.allowed is not None:
        bits = np.unpackbits(np.frombuffer(case.allowed, np.uint8), bitorder="little")[: len(logits)]
        logits[~np.pad(bits, (0, len(logits) - len(bits))).astype(bool)] = -np.inf
    for token, amount in (*case.params.logit_bias, *case.biases):
        logits[token] += np.float32(amount)
    rows = torch.from_numpy(logits)[None]
    penalize(rows, [case.counts], [case.params])
    return np.asarray(rows[0].double().numpy())


def kept_by_the_book(case: Case, slack: float = 0.0) -> Doubles:
    """Weights [V], with the filters' bounds moved by that much."""
    logits, params = edited(case), case.params
    weights: Doubles = np.exp((logits - logits.max()) / params.temperature)
    if params.top_n_sigma > 0:
        reach = params.top_n_sigma * logits[np.isfinite(logits)].std()
        weights[logits < logits.max() - reach * (1 + slack)] = 0
    if 0 < params.top_k < len(weights):
        weights[weights < np.sort(weights)[-params.top_k] * (1 - abs(slack))] = 0
    keep_typical(weights, params.typical_p, slack)
    if params.top_p < 1:
        descending = np.sort(weights)[::-1]
        running = np.cumsum(descending)
        last = descending[np.searchsorted(running, params.top_p * running[-1] * (1 - slack))]
        weights[weights < last * (1 - 1e-9)] = 0
    weights[weights < weights.max() * min(params.min_p * (1 + slack), 1)] = 0
    drop_likeliest(weights, case, slack)
    return weights


def keep_typical(weights: Doubles, share: float, slack: float) -> None:
    if share >= 1:
        return
    left = np.flatnonzero(weights)
    p = weights[left] / weights[left].sum()
    surprise = -np.log(p)
    order = np.argsort(np.abs(surprise - (p * surprise).sum()), kind="stable")
    num = 1 + np.searchsorted(np.cumsum(p[order]), share * (1 - slack))
    weights[left[order[num:]]] = 0


def drop_likeliest(weights: Doubles, case: Case, slack: float) -> None:
    params: SamplingParams = case.params
    if not numbers(params.seed, case.position)[1] < params.xtc_probability:
        return
    likeliest = weights[(weights > 0) & (weights >= params.xtc_threshold * weights.sum() * (1 - slack))]
    if len(likeliest) >= 2:
        weights[weights > likeliest.min() * (1 + 1e-9)] = 0


def is_as_good(token: int, case: Case) -> bool:
    """Whether rounding could have made it the chosen one: a bound moved by 1e-6 does, with u within 1e-6 of it."""
    number = numbers(case.params.seed, case.position)[0]
    for slack in (-1e-6, 0.0, 1e-6):
        running = np.cumsum(kept_by_the_book(case, slack))
        reached = running / running[-1]
        before = reached[token - 1] if token else 0.0
        if before - 1e-6 <= number <= reached[token] + 1e-6 and reached[token] > before:
            return True
    return False


def assert_as_good(ours: Sequence[ChunkResult], theirs: Sequence[ChunkResult], cases: Sequence[Case]) -> None:
    """The same tokens as another implementation's, but for a few where weights in float32 differ in their last bits."""
    num_others = 0
    for one, other, case in zip(ours, theirs, cases, strict=True):
        assert one.error == other.error
        if one.token_id != other.token_id:
            num_others += 1
            assert one.token_id is not None
            assert case.params.temperature > 0
            assert is_as_good(one.token_id, case), case
    assert num_others <= len(cases) // 100 + 1
