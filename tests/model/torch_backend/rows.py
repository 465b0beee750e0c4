"""Rows to sample from, for the tests of the rule and of its parts."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.batch import ChunkResult, SamplingParams
from model.torch_backend.edits import SamplingRow
from model.torch_backend.penalties import TokenCounts
from model.torch_backend.sampling import sample
from tests.model.sampling_by_the_book import BookRow, packed

GREEDY = SamplingParams(temperature=0.0)


def random_logits(num_rows: int, vocab_size: int, seed: int = 0, spread: float = 3.0) -> Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * spread


def tokens_of(results: Sequence[ChunkResult]) -> list[int | None]:
    return [result.token_id for result in results]


def draw(logits: Tensor, params: SamplingParams, positions: range) -> np.ndarray:
    """Of one row of logits [V], one token at each position."""
    rows = [SamplingRow(params, position, 0) for position in positions]
    return np.array(tokens_of(sample(logits.expand(len(rows), -1), rows)))


def row_of(row: BookRow) -> SamplingRow:
    counts = TokenCounts(len(row.prompt))
    counts.extend(row.prompt + row.output)
    allowed = packed(row.allowed, len(row.logits))
    return SamplingRow(row.params, row.position, len(row.output), counts, allowed, row.biases)
