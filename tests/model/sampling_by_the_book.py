"""The rule of sampling, told a second time: loops over one row of plain numbers, as near to the rule's text as can be,
and nothing taken from the code that it checks. What the rule says is float32 is float32 here."""

import math
from dataclasses import dataclass, field

import numpy as np

from model.batch import SamplingParams


@dataclass(frozen=True)
class BookRow:
    """A row, and all that a token may depend on."""

    logits: list[float] = field(repr=False)
    params: SamplingParams
    position: int = 0
    prompt: tuple[int, ...] = ()
    output: tuple[int, ...] = ()
    allowed: frozenset[int] | None = None
    biases: tuple[tuple[int, float], ...] = ()


def packed(allowed: frozenset[int] | None, vocab_size: int) -> bytes | None:
    """As Chunk.allowed."""
    if allowed is None:
        return None
    data = bytearray(-(-vocab_size // 8))
    for token in allowed:
        data[token // 8] |= 1 << token % 8
    return bytes(data)


def token_of(row: BookRow) -> int | None:
    """None: there is none to choose."""
    logits = edited(row)
    if max(logits) == -math.inf:
        return None
    if row.params.temperature == 0:
        return logits.index(max(logits))
    kept = kept_weights(logits, row.params, row.position)
    running, aim = 0.0, uniform(row.params.seed, row.position, 0) * sum(kept.values())
    for token, weight in kept.items():
        running += weight
        if running > aim:
            return token
    return None


# ---- Steps 2 to 5 ----


def edited(row: BookRow) -> list[float]:
    params, biases = row.params, [dict(row.params.logit_bias), dict(row.biases)]
    logits = []
    for token, x in enumerate(map(np.float32, row.logits)):
        is_suppressed = len(row.output) < params.min_tokens and token in params.suppressed_token_ids
        if is_suppressed or (row.allowed is not None and token not in row.allowed):
            x = np.float32(-np.inf)
        for bias in biases:
            x += np.float32(bias.get(token, 0))
        if token in row.prompt + row.output:
            repetition = np.float32(params.repetition_penalty)
            x = x / repetition if x > 0 else x * repetition
        if num := row.output.count(token):
            x = x - np.float32(params.presence_penalty) - np.float32(num) * np.float32(params.frequency_penalty)
        logits.append(float(x))
    return logits


# ---- Steps 6 and 7 ----


def kept_weights(logits: list[float], params: SamplingParams, position: int = 0) -> dict[int, float]:
    """The weights above 0 that the filters leave, in order of token ids."""
    differences = np.array(logits, dtype=np.float32) - np.float32(max(logits))
    weights = np.exp(differences / np.float32(params.temperature)).tolist()
    kept = {token: weight for token, weight in enumerate(weights) if weight > 0}
    kept = near_the_largest(kept, logits, params.top_n_sigma)
    kept = top(kept, params.top_k)
    kept = typical(kept, params.typical_p)
    kept = nucleus(kept, params.top_p)
    least = float(np.float32(params.min_p) * np.float32(max(kept.values())))
    kept = {token: weight for token, weight in kept.items() if weight >= least}
    if kept and uniform(params.seed, position, 1) < params.xtc_probability:
        kept = without_top_choices(kept, params.xtc_threshold)
    return kept


def near_the_largest(kept: dict[int, float], logits: list[float], num_sigmas: float) -> dict[int, float]:
    finite = [x for x in logits if math.isfinite(x)]
    mean = math.fsum(finite) / len(finite)
    sigma = math.sqrt(math.fsum((x - mean) ** 2 for x in finite) / len(finite))
    if num_sigmas <= 0:
        return kept
    return {token: weight for token, weight in kept.items() if logits[token] >= max(logits) - num_sigmas * sigma}


def top(kept: dict[int, float], k: int) -> dict[int, float]:
    if k <= 0 or k >= len(kept):
        return kept
    kth = sorted(kept.values(), reverse=True)[k - 1]
    return {token: weight for token, weight in kept.items() if weight >= kth}


def typical(kept: dict[int, float], share: float) -> dict[int, float]:
    if share >= 1:
        return kept
    total = math.fsum(kept.values())
    entropy = -math.fsum(w / total * math.log(w / total) for w in kept.values())
    order = sorted(kept, key=lambda token: (abs(-math.log(kept[token] / total) - entropy), token))
    taken, running = set(), 0.0
    for token in order:
        taken.add(token)
        running += kept[token]
        if running >= share * total:
            break
    return {token: weight for token, weight in kept.items() if token in taken}


def nucleus(kept: dict[int, float], share: float) -> dict[int, float]:
    if share >= 1:
        return kept
    running, total = 0.0, math.fsum(kept.values())
    for last in sorted(kept.values(), reverse=True):
        running += last
        if running >= share * total:
            break
    return {token: weight for token, weight in kept.items() if weight >= last}


def without_top_choices(kept: dict[int, float], threshold: float) -> dict[int, float]:
    total = math.fsum(kept.values())
    choices = [weight for weight in kept.values() if weight >= threshold * total]
    if len(choices) < 2:
        return kept
    return {token: weight for token, weight in kept.items() if weight <= min(choices)}


# ---- Random numbers ----


def uniform(seed: int, position: int, which: int) -> float:
    """The first (0) or second (1) number of a seed and a position."""
    counter = [position % 2**32, position >> 32, 0, 0]
    words = philox_with_plain_integers(counter, [seed % 2**32, seed >> 32])
    high, low = words[2 * which : 2 * which + 2]
    return float(((high << 32 | low) >> 11) / 2**53)


def philox_with_plain_integers(counter: list[int], key: list[int]) -> list[int]:
    """The paper's figure, without vectors: multiply, split into halves, swap, mix in the key."""
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * counter[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * counter[2], 2**32)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter
