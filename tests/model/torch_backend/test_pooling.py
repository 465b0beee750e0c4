import pytest
import torch

from model.torch_backend.pooling import PromptMean
from tests.model.torch_backend.rows import random_logits


@pytest.mark.parametrize("cuts", [[10], [1, 9], [3, 3, 3, 1], [1] * 10])
def test_the_mean_is_the_same_bits_whatever_the_chunks(cuts: list[int]) -> None:
    hidden, mean = random_logits(10, 64), PromptMean(10)
    total = torch.zeros(64, dtype=torch.float64)
    for row in hidden.double():
        total += row
    *earlier, last = [mean.extend(part) for part in torch.split(hidden, cuts)]
    assert earlier == [None] * (len(cuts) - 1)
    assert last is not None
    assert torch.equal(last, total / 10)


def test_tokens_behind_the_prompt_are_no_part_of_it() -> None:
    hidden, mean = random_logits(6, 8), PromptMean(4)
    assert mean.extend(hidden[:3]) is None
    given = mean.extend(hidden[3:])  # read again after a preemption: the prompt's last and two of the output
    assert given is not None
    torch.testing.assert_close(given, hidden[:4].double().mean(0))
    assert mean.extend(hidden[:1]) is None
