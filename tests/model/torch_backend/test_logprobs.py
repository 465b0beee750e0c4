import math

import pytest
import torch

from model.batch import TargetLogprob
from model.torch_backend import logprobs
from model.torch_backend.logprobs import report, report_targets
from model.torch_backend.weights import build_transformer
from tests.model.random_checkpoint import LLAMA, random_checkpoint
from tests.model.torch_backend.rows import random_logits


def test_each_row_has_its_tokens_and_as_many_others_as_it_wants() -> None:
    logits = random_logits(3, 50)
    expected = logits.double().log_softmax(-1)
    reports = report(logits, torch.tensor([7, 8, 9]), [0, 3, 1])
    assert [one.logprob for one in reports] == pytest.approx(expected[range(3), [7, 8, 9]].tolist(), abs=1e-5)
    assert [len(one.top_logprobs) for one in reports] == [0, 3, 1]
    assert [token for token, _ in reports[1].top_logprobs] == expected[1].topk(3).indices.tolist()
    assert [x for _, x in reports[1].top_logprobs] == pytest.approx(expected[1].topk(3).values.tolist(), abs=1e-5)


def test_more_than_there_are_are_all_there_are() -> None:
    (one,) = report(torch.zeros(1, 4), torch.tensor([2]), [20])
    assert one.logprob == pytest.approx(-math.log(4))
    assert len(one.top_logprobs) == 4
    assert report(torch.zeros(0, 4), torch.tensor([], dtype=torch.int64), []) == []


@torch.inference_mode()
def test_targets_are_reported_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = build_transformer(random_checkpoint(LLAMA, 3), torch.device("cpu"), torch.float32)
    hidden, targets = random_logits(30, LLAMA.hidden_size), list(range(100, 125))
    whole = report_targets(transformer, hidden, targets, 2)
    expected = report(transformer.logits(hidden[:25]), torch.tensor(targets), [2] * 25)
    assert whole == tuple(expected)
    sizes: list[int] = []

    def noted(logits: torch.Tensor, token_ids: torch.Tensor, nums: list[int]) -> list[TargetLogprob]:
        sizes.append(len(logits))
        return report(logits, token_ids, nums)

    monkeypatch.setattr(logprobs, "report", noted)
    monkeypatch.setattr(logprobs, "MAX_LOGITS", 331 * 8)
    assert report_targets(transformer, hidden, targets, 2) == whole
    assert sizes == [8, 8, 8, 1]
    hidden[20] = math.nan
    assert report_targets(transformer, hidden, targets, 2) is None
    assert report_targets(transformer, hidden, targets[:20], 2) is not None
    assert report_targets(transformer, hidden, (), 2) == ()
