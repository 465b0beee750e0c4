import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.batch import SamplingParams
from model.torch_backend.edits import SamplingRow, edit
from model.torch_backend.penalties import TokenCounts
from tests.model.sampling_by_the_book import packed
from tests.model.torch_backend.rows import GREEDY


def edited(logits: list[float], *rows: SamplingRow) -> list[list[float]]:
    """Of as many rows of the same logits."""
    changed = torch.tensor([logits] * len(rows))
    edit(changed, rows)
    return changed.tolist()


def row(params: SamplingParams = GREEDY, **changes: object) -> SamplingRow:
    return replace(SamplingRow(params, 5, 1), **changes)


def test_suppressed_tokens_wait_until_the_output_is_long_enough() -> None:
    params = replace(GREEDY, min_tokens=2, suppressed_token_ids=(1,))
    before, after = row(params), row(params, num_output_tokens=2)
    assert edited([0.0, 9.0, 1.0], before, after) == [[0.0, -math.inf, 1.0], [0.0, 9.0, 1.0]]


@pytest.mark.parametrize("vocab_size", [1, 7, 8, 9, 64, 331])
def test_what_is_not_allowed_is_out(vocab_size: int) -> None:
    generator = np.random.default_rng(vocab_size)
    sets = [frozenset(np.flatnonzero(generator.integers(2, size=vocab_size)).tolist()) for _ in range(5)]
    ours = edited([1.5] * vocab_size, row(), *(row(allowed=packed(allowed, vocab_size)) for allowed in sets))
    assert ours[0] == [1.5] * vocab_size
    for allowed, logits in zip(sets, ours[1:], strict=True):
        assert {token for token, logit in enumerate(logits) if logit == 1.5} == allowed
        assert {logit for token, logit in enumerate(logits) if token not in allowed} <= {-math.inf}


def test_bytes_that_are_missing_allow_nothing_and_bytes_too_many_do_not_matter() -> None:
    short, none, long = edited([1.0] * 20, row(allowed=b"\x81"), row(allowed=b""), row(allowed=b"\xff" * 9))
    assert [token for token, logit in enumerate(short) if logit == 1.0] == [0, 7]
    assert none == [-math.inf] * 20
    assert long == [1.0] * 20


def test_biases_of_request_and_of_choice_add_up() -> None:
    params = replace(GREEDY, logit_bias=((0, 1.5), (2, -100.0)))
    first, second = edited([1.0, 2.0, 3.0], row(params, biases=((0, 0.25), (1, -math.inf))), row())
    assert first == [2.75, -math.inf, -97.0]
    assert second == [1.0, 2.0, 3.0]


def test_no_bias_brings_back_what_is_out() -> None:
    params = replace(GREEDY, logit_bias=((0, 100.0), (1, 100.0)), min_tokens=9, suppressed_token_ids=(0,))
    assert edited([1.0, 2.0, 3.0], row(params, allowed=b"\x05", biases=((1, 50.0),))) == [[-math.inf, -math.inf, 3.0]]


def test_penalties_see_the_logit_behind_its_bias() -> None:
    """Positive with it, so that the repetition penalty divides."""
    counts = TokenCounts(0)
    counts.extend([0, 0])
    params = replace(
        GREEDY, logit_bias=((0, 5.0),), repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.1
    )
    ((first, _),) = edited([-1.0, 0.0], row(params, counts=counts))
    assert first == pytest.approx(4.0 / 2 - 0.5 - 0.2)


@pytest.mark.parametrize(
    ("changed", "is_edited"),
    [
        (row(), False),
        (row(SamplingParams(temperature=0.7, top_k=3, seed=9)), False),
        (row(replace(GREEDY, suppressed_token_ids=(1,))), False),
        (row(replace(GREEDY, suppressed_token_ids=(1,), min_tokens=2)), True),
        (row(replace(GREEDY, logit_bias=((1, 1.0),))), True),
        (row(replace(GREEDY, presence_penalty=0.1)), True),
        (row(biases=((1, 1.0),)), True),
        (row(allowed=b""), True),
    ],
)
def test_a_row_knows_whether_it_is_edited(changed: SamplingRow, is_edited: bool) -> None:
    assert changed.is_edited == is_edited
