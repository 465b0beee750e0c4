"""The mean of a prompt's final hidden states, taken up as its chunks come: an embedding of the whole.

In float64 and in the order of positions, so that it does not matter into which chunks a prompt was cut.
"""

import torch
from torch import Tensor


class PromptMean:
    """Over the first `num_prompt_tokens` tokens of a slot; what stands behind them is output."""

    def __init__(self, num_prompt_tokens: int) -> None:
        self._num_prompt_tokens = num_prompt_tokens
        self._num_tokens = 0
        self._total: Tensor | None = None  # [E] float64

    def extend(self, hidden: Tensor) -> Tensor | None:
        """hidden [N, E]: of the slot's next tokens. Gives the mean [E] with the prompt's last one."""
        missing = self._num_prompt_tokens - self._num_tokens
        self._num_tokens += len(hidden)
        if missing <= 0:
            return None
        rows = hidden[:missing].double()
        before = torch.zeros_like(rows[0]) if self._total is None else self._total
        self._total = torch.cat((before[None], rows)).cumsum(0)[-1].clone()
        return self._total / self._num_prompt_tokens if len(hidden) >= missing else None
