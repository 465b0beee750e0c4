"""What a slot's tokens do to the logits of the next one: repetition, presence and frequency penalties.

Kept as counts of the distinct tokens a slot has seen, by slot, as they come, and only for slots that ask: the cost of a
step is that of the tokens seen, not of the vocabulary. `sampling.py` has the rule.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.batch import SamplingParams


def has_penalties(params: SamplingParams) -> bool:
    return bool(params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0)


class TokenCounts:
    """The distinct tokens of one slot, prompt and output, and how often each stands in the output."""

    def __init__(self, num_prompt_tokens: int) -> None:
        self._num_prompt_tokens = num_prompt_tokens
        self._num_tokens = 0
        self._places: dict[int, int] = {}  # token id -> its index in the arrays
        self._token_ids = np.zeros(64, dtype=np.int64)
        self._num_output = np.zeros(64, dtype=np.float32)

    def extend(self, token_ids: Sequence[int]) -> None:
        """The next tokens of the slot."""
        for token_id in token_ids:
            place = self._places.setdefault(token_id, len(self._places))
            if place == len(self._token_ids):
                self._token_ids = np.concatenate((self._token_ids, np.zeros_like(self._token_ids)))
                self._num_output = np.concatenate((self._num_output, np.zeros_like(self._num_output)))
            self._token_ids[place] = token_id
            self._num_output[place] += self._num_tokens >= self._num_prompt_tokens
            self._num_tokens += 1

    @property
    def token_ids(self) -> np.ndarray:
        """[N] int64, in the order of their first appearance."""
        return self._token_ids[: len(self._places)]

    @property
    def num_output(self) -> np.ndarray:
        """[N] float32, of each of `token_ids`."""
        return self._num_output[: len(self._places)]


def penalize(logits: Tensor, counts: Sequence[TokenCounts | None], params: Sequence[SamplingParams]) -> None:
    """Changes logits [R, V] in place, in rows that have counts."""
    rows = [row for row, count in enumerate(counts) if count is not None]
    if not rows:
        return
    present = [count for count in counts if count is not None]
    lengths = [len(count.token_ids) for count in present]

    def of_rows(values: Sequence[float]) -> Tensor:
        return torch.from_numpy(np.repeat(np.asarray(values, dtype=np.float32), lengths)).to(logits.device)

    row = torch.from_numpy(np.repeat(rows, lengths)).to(logits.device)
    token = torch.from_numpy(np.concatenate([count.token_ids for count in present])).to(logits.device)
    num_output = torch.from_numpy(np.concatenate([count.num_output for count in present])).to(logits.device)
    repetition = of_rows([params[r].repetition_penalty for r in rows])
    values = logits[row, token]
    values = torch.where(values > 0, values / repetition, values * repetition)
    values -= of_rows([params[r].presence_penalty for r in rows]) * (num_output > 0)
    values -= of_rows([params[r].frequency_penalty for r in rows]) * num_output
    logits[row, token] = values
