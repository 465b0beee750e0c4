import numpy as np
import torch

from model.batch import SamplingParams
from model.torch_backend.penalties import TokenCounts, has_penalties, penalize


def counts_of(prompt: list[int], output: list[int]) -> TokenCounts:
    counts = TokenCounts(len(prompt))
    counts.extend(prompt)
    counts.extend(output)
    return counts


def as_dict(counts: TokenCounts) -> dict[int, float]:
    return dict(zip(counts.token_ids.tolist(), counts.num_output.tolist(), strict=True))


def test_prompt_tokens_are_seen_and_output_tokens_are_counted() -> None:
    assert as_dict(counts_of([5, 5, 7], [7, 9, 7])) == {5: 0, 7: 2, 9: 1}


def test_output_that_is_fed_in_again_after_a_preemption_is_still_output() -> None:
    counts = TokenCounts(2)
    counts.extend([1, 2, 3])  # a chunk that runs from the prompt into what was generated before
    counts.extend([3, 1])
    assert as_dict(counts) == {1: 1, 2: 0, 3: 2}


def test_more_tokens_than_the_first_arrays_hold() -> None:
    counts = counts_of([], [*range(1000), *range(500)])
    assert as_dict(counts) == {i: 2 if i < 500 else 1 for i in range(1000)}


def test_penalties_against_a_loop_over_every_token() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3, 50)).astype(np.float32)
    texts = [([1, 2, 3], [3, 4, 4]), None, ([10], [1] * 70)]
    params = [
        SamplingParams(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=-0.25),
        SamplingParams(),
        SamplingParams(presence_penalty=-1.0, frequency_penalty=0.01),
    ]
    expected = logits.copy()
    for row, (text, p) in enumerate(zip(texts, params, strict=True)):
        if text is None:
            continue
        prompt, output = text
        for token in set(prompt + output):
            x = expected[row, token]
            x = x / p.repetition_penalty if x > 0 else x * p.repetition_penalty
            expected[row, token] = (
                x - p.presence_penalty * (token in output) - p.frequency_penalty * output.count(token)
            )
    ours = torch.from_numpy(logits)
    penalize(ours, [counts_of(*text) if text else None for text in texts], params)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6, atol=1e-6)


def test_each_penalty_alone_asks_for_counts() -> None:
    assert not has_penalties(SamplingParams())
    assert has_penalties(SamplingParams(repetition_penalty=0.9))
    assert has_penalties(SamplingParams(presence_penalty=0.1))
    assert has_penalties(SamplingParams(frequency_penalty=-0.1))
