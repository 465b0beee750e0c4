"""Whether the output layer is the embedding again, decided by what the files hold rather than by what they say."""

from dataclasses import dataclass

import numpy as np

from model.formats.checkpoint import WeightTensor

EMBEDDING = "model.embed_tokens.weight"
OUTPUT = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class ResolvedWeights:
    weights: dict[str, WeightTensor]  # without the output layer where it is tied
    tied: bool


def resolve_tying(weights: dict[str, WeightTensor]) -> ResolvedWeights:
    """For a model that may be tied. One of the two matrices stands for both, whichever is there; two equal ones are
    one; two that differ are two, as in transformers, which then doubts the config and not the file."""
    if OUTPUT not in weights:
        return ResolvedWeights(weights, tied=True)
    output = weights[OUTPUT]
    embedding = weights.get(EMBEDDING, output)
    if not _same_bytes(embedding, output):
        return ResolvedWeights(weights, tied=False)
    others = {name: tensor for name, tensor in weights.items() if name != OUTPUT}
    return ResolvedWeights(others | {EMBEDDING: embedding}, tied=True)


def _same_bytes(a: WeightTensor, b: WeightTensor) -> bool:
    """Equal values in two encodings count as different, which costs memory but changes no result."""
    return a.encoding == b.encoding and np.array_equal(a.data, b.data)
