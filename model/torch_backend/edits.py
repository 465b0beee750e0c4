"""What is known of a row beside its logits, and what that does to them: steps 2 to 5 of the rule in `sampling.py`.

In place, and for all rows of a step at once. Draws nothing and remembers nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.batch import SamplingParams
from model.torch_backend.penalties import TokenCounts, has_penalties, penalize

Biases = Sequence[tuple[int, float]]  # token id, what is added to its logit


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """What is known of a row beside its logits."""

    params: SamplingParams
    position: int  # of the token to be chosen
    num_output_tokens: int  # before it
    counts: TokenCounts | None = None  # where there are penalties
    allowed: bytes | None = None  # as in Chunk
    biases: Biases = ()  # likewise

    @property
    def suppressed_token_ids(self) -> tuple[int, ...]:
        return self.params.suppressed_token_ids if self.num_output_tokens < self.params.min_tokens else ()

    @property
    def is_edited(self) -> bool:
        """Whether the logits that are chosen from may differ from the model's."""
        changes = self.suppressed_token_ids or self.biases or self.params.logit_bias
        return bool(changes) or self.allowed is not None or has_penalties(self.params)


def edit(logits: Tensor, rows: Sequence[SamplingRow]) -> None:
    """logits [R, V], of which row r is that of rows[r]."""
    for logit, row in zip(logits, rows, strict=True):
        if row.suppressed_token_ids:
            logit[list(row.suppressed_token_ids)] = -torch.inf
    _forbid(logits, {r: row.allowed for r, row in enumerate(rows) if row.allowed is not None})
    _add(logits, [row.params.logit_bias for row in rows])
    _add(logits, [row.biases for row in rows])
    penalize(logits, [row.counts for row in rows], [row.params for row in rows])


def _forbid(logits: Tensor, allowed: dict[int, bytes]) -> None:
    """In each of these rows, everything but what is allowed."""
    if not allowed:
        return
    vocab_size = logits.shape[-1]
    packed = np.zeros((len(allowed), -(-vocab_size // 8)), dtype=np.uint8)
    for row, data in zip(packed, allowed.values(), strict=True):
        bits = np.frombuffer(data, dtype=np.uint8)[: len(row)]
        row[: len(bits)] = bits
    shifts = torch.arange(8, dtype=torch.uint8, device=logits.device)
    is_allowed = torch.from_numpy(packed).to(logits.device)[:, :, None] >> shifts & 1  # [M, V/8, 8]
    some = torch.tensor(list(allowed), device=logits.device)
    logits[some] = logits[some].masked_fill_(is_allowed.flatten(1)[:, :vocab_size] == 0, -torch.inf)


def _add(logits: Tensor, biases: Sequence[Biases]) -> None:
    """To each row its biases; a token stands once in them."""
    flat = [(row, token, bias) for row, pairs in enumerate(biases) for token, bias in pairs]
    if not flat:
        return
    rows, tokens, values = (torch.tensor(column, device=logits.device) for column in zip(*flat, strict=True))
    logits[rows, tokens] += values.to(logits.dtype)
