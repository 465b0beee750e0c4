"""Counter-based random numbers: Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).

A number is a pure function of a key and a counter, so it does not matter when, where or beside whom it is drawn. On the
host whatever the device, so that a seed gives the same numbers on each.
"""

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))  # golden ratio, sqrt(3) - 1
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)

Words = NDArray[np.uint64]  # 32 bits are used


def philox(counter: Words, key: Words) -> Words:
    """Counters [4, N] and keys [2, N], words of 32 bits, least significant first -> random words [4, N]."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (product1 >> HALF) ^ c1 ^ k0, product1 & LOW, (product0 >> HALF) ^ c3 ^ k1, product0 & LOW
        k0, k1 = (k0 + KEY_STEPS[0]) & LOW, (k1 + KEY_STEPS[1]) & LOW
    return np.stack((c0, c1, c2, c3))


def uniforms(seeds: Words, positions: Words) -> NDArray[np.float64]:
    """[N] numbers in [0, 1) with 53 random bits: key = seed (64 bits), counter = position, first two words of the
    output, the first of them the more significant."""
    return _fraction(*_output(seeds, positions)[:2])


def second_uniforms(seeds: Words, positions: Words) -> NDArray[np.float64]:
    """[N] further numbers, independent of `uniforms` of the same seeds and positions: of the same output, the last two
    words."""
    return _fraction(*_output(seeds, positions)[2:])


def _output(seeds: Words, positions: Words) -> Words:
    zero = np.zeros_like(positions)
    return philox(
        np.stack((positions & LOW, positions >> HALF, zero, zero)),
        np.stack((seeds & LOW, seeds >> HALF)),
    )


def _fraction(high: Words, low: Words) -> NDArray[np.float64]:
    mantissa = ((high << HALF | low) >> np.uint64(11)).astype(np.float64)
    return np.asarray(mantissa * 2.0**-53, dtype=np.float64)
