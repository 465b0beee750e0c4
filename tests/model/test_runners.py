"""What every runner must do, whatever computes it: slots that come and go, chunks, steps that fail. The tokens of a
request are its own whatever goes on beside it. What is chosen is tested in test_runner_choices.py; log-probabilities
and means are in test_runner_readings.py."""

from dataclasses import replace

import numpy as np
import pytest

from model.batch import NO_CHOICE, NOT_FINITE, Batch, Chunk, ChunkResult, FreedSlot, OpenedSlot, SamplingParams
from model.config import ModelConfig
from model.native.library import NativeError
from tests.model.random_checkpoint import LLAMA, QWEN2, QWEN3, QWEN3_MOE, checkpoint_that_breaks_on, random_checkpoint
from tests.model.runners import (
    GREEDY,
    ON_EVERY_RUNNER,
    answer,
    answer_in_pieces,
    make_runner,
    prompt_of,
    tokens_of,
)
from tests.model.torch_backend.driver import Driver

WAYS = {
    "greedy": GREEDY,
    "sampled": SamplingParams(temperature=0.9, top_p=0.95, seed=7),
    "penalised": SamplingParams(
        temperature=0.7, top_k=40, repetition_penalty=1.2, frequency_penalty=0.3, seed=2**64 - 1
    ),
    "filtered": SamplingParams(
        temperature=1.2,
        typical_p=0.9,
        top_n_sigma=2.0,
        xtc_probability=0.5,
        xtc_threshold=0.05,
        logit_bias=((5, 4.0), (7, -100.0)),
        seed=3,
    ),
}
IN_EVERY_WAY = pytest.mark.parametrize("params", WAYS.values(), ids=WAYS)


@ON_EVERY_RUNNER
@pytest.mark.parametrize("config", [LLAMA, QWEN2, QWEN3, QWEN3_MOE], ids=lambda config: config.architecture)
def test_requests_together_give_what_each_gives_alone(config: ModelConfig, backend: str) -> None:
    """Eight that start one after another, in other slots than alone, in blocks that others have left."""
    driver = Driver(make_runner(backend, random_checkpoint(config, 3)))
    requests = [(prompt_of(3 + 11 * i, i), list(WAYS.values())[i % 4]) for i in range(8)]
    alone = [tokens_of(answer(driver, prompt, params, 12)) for prompt, params in requests]
    together: list[list[int | None]] = [[] for _ in requests]
    for start in range(8 + 12):
        running = [i for i in range(8) if i < start and len(together[i]) < 12]
        finished = [7 - i for i in range(8) if len(together[i]) == 12 and 7 - i in driver.blocks]
        chunks, opened = [Chunk(7 - i) for i in running], []
        if start < 8:
            prompt, params = requests[start]
            chunks.append(Chunk(7 - start, prompt))
            opened.append(OpenedSlot(7 - start, 1, len(prompt), params))
        for chunk, result in zip(chunks, driver.step(chunks, opened, finished), strict=True):
            together[7 - chunk.slot].append(result.token_id)
    assert together == alone


@ON_EVERY_RUNNER
@IN_EVERY_WAY
def test_a_prompt_in_chunks_gives_what_it_gives_whole(params: SamplingParams, backend: str) -> None:
    driver, prompt = Driver(make_runner(backend)), prompt_of(101)
    whole, *cut = [answer(driver, prompt, params, 5, cuts) for cuts in ([], [1], [32], [5, 37, 38], [100])]
    assert cut == [whole] * 4


@ON_EVERY_RUNNER
@IN_EVERY_WAY
def test_a_request_that_was_set_back_goes_on_as_if_nothing_had_been(params: SamplingParams, backend: str) -> None:
    """Its prompt is as long as it was: what it generated counts as output."""
    driver, prompt = Driver(make_runner(backend)), prompt_of(40)
    assert answer_in_pieces(driver, prompt, params, 20, 9) == answer(driver, prompt, params, 20)


@ON_EVERY_RUNNER
def test_the_next_owner_of_a_slot_inherits_nothing(backend: str) -> None:
    driver, prompt = Driver(make_runner(backend)), prompt_of(9)
    expected = tokens_of(answer(driver, prompt, GREEDY, 3))
    demanding = replace(
        WAYS["penalised"], num_logprobs=2, num_prompt_logprobs=3, logit_bias=((4, 100.0),), min_tokens=9
    )
    opened = replace(OpenedSlot(0, 1, 9, demanding), pools=True)
    allowed, biases = b"\x10", ((4, 5.0),)
    (rich,) = driver.step([Chunk(0, prompt, allowed=allowed, biases=biases, targets=prompt[1:])], [opened])
    assert (rich.token_id, len(rich.top_logprobs), len(rich.targets)) == (4, 2, 8)
    assert rich.pooled is not None
    driver.step([Chunk(0)])
    first = driver.step([Chunk(0, prompt)], [OpenedSlot(0, 2, 9, GREEDY)], freed=[0])
    results = first + driver.step([Chunk(0)]) + driver.step([Chunk(0)])
    assert results == tuple(ChunkResult(token) for token in expected)


@ON_EVERY_RUNNER
def test_freeing_twice_or_what_was_never_open_is_no_error(backend: str) -> None:
    driver, prompt = Driver(make_runner(backend)), prompt_of(40)
    expected = answer(driver, prompt, GREEDY, 3)
    freed = (FreedSlot(0, (0, 1)), FreedSlot(9, (4,)), FreedSlot(12, ()))
    assert driver.runner.run(Batch(freed=freed)).results == ()
    assert driver.runner.run(Batch(freed=freed)).results == ()
    assert answer(driver, prompt, GREEDY, 3) == expected


@ON_EVERY_RUNNER
def test_after_a_step_that_failed_its_slots_are_freed_and_others_go_on(backend: str) -> None:
    driver, prompt = Driver(make_runner(backend)), prompt_of(40)
    expected = tokens_of(answer(driver, prompt, GREEDY, 6))
    results = [*driver.step([Chunk(0, prompt)], [OpenedSlot(0, 1, 40, GREEDY)])]
    with pytest.raises((AssertionError, NativeError)):  # a token outside the vocabulary: the engine's mistake
        driver.step([Chunk(1, (331,))], [OpenedSlot(1, 1, 1, GREEDY)])
    results += driver.step([Chunk(0)], freed=[1])
    while len(results) < 6:
        results += driver.step([Chunk(0)])
    assert tokens_of(results) == expected
    driver.step([], freed=[0])
    assert tokens_of(answer(driver, prompt, GREEDY, 6)) == expected


@ON_EVERY_RUNNER
def test_numbers_that_overflow_in_one_request_fail_that_one(backend: str) -> None:
    """And whatever else was wanted of it."""
    driver = Driver(make_runner(backend, checkpoint_that_breaks_on(17)))
    prompts = [tuple(token for token in prompt_of(20, seed) if token != 17) for seed in range(5)]
    alone = [answer(driver, prompt, GREEDY, 1)[0] for prompt in prompts]
    for broken in (1, 2, 3):
        prompts[broken] = (*prompts[broken][:4], 17, *prompts[broken][5:])
    opened = [OpenedSlot(slot, 1, len(p), GREEDY, pools=slot == 2) for slot, p in enumerate(prompts)]
    targets = [(), (), (), prompts[3][1:], ()]
    chunks = [
        Chunk(slot, prompt, samples=slot not in (2, 3), targets=targets[slot]) for slot, prompt in enumerate(prompts)
    ]
    results = driver.step(chunks, opened)
    assert results[1:4] == (ChunkResult(error=NOT_FINITE),) * 3
    assert [results[0], results[4]] == [alone[0], alone[4]]


@ON_EVERY_RUNNER
def test_neighbours_of_numbers_that_overflow_go_on_to_the_last_bit(backend: str) -> None:
    """And so does the next owner of the blocks that hold them. torch promises tokens, but not bits."""
    driver, prompt = Driver(make_runner(backend, checkpoint_that_breaks_on(17))), (5, 6, 7)
    ways = [
        replace(way, num_logprobs=3, min_tokens=99, suppressed_token_ids=(17,)) for way in (GREEDY, WAYS["sampled"])
    ]
    alone = [answer(driver, prompt, params, 8) for params in ways]
    opened = [OpenedSlot(slot, 1, 3, params) for slot, params in ((0, ways[0]), (1, GREEDY), (2, ways[1]))]
    steps = [driver.step([Chunk(0, prompt), Chunk(1, prompt), Chunk(2, prompt)], opened)]
    for token_id in (8, 17, 9, 10):  # from the second on it reads what has overflowed
        steps.append(driver.step([Chunk(0), Chunk(1, (token_id,)), Chunk(2)]))
    assert [step[1].error for step in steps] == [None, None, NOT_FINITE, NOT_FINITE, NOT_FINITE]
    steps.append(driver.step([Chunk(0), Chunk(1, prompt), Chunk(2)], [OpenedSlot(1, 2, 3, ways[0])], freed=[1]))
    steps += [driver.step([Chunk(0), Chunk(1), Chunk(2)]) for _ in range(2)]
    got = [step[0] for step in steps], [step[2] for step in steps], [step[1] for step in steps[5:]]
    for results, expected in zip(got, (*alone, alone[0][:3]), strict=True):
        assert tokens_of(results) == tokens_of(expected)
        assert backend != "native" or results == expected


@ON_EVERY_RUNNER
def test_a_row_without_a_choice_fails_alone(backend: str) -> None:
    driver = Driver(make_runner(backend))
    nothing = replace(GREEDY, min_tokens=1, suppressed_token_ids=tuple(range(331)))
    opened = [OpenedSlot(slot, 1, 2, params) for slot, params in enumerate((GREEDY, nothing, WAYS["sampled"]))]
    chunks = [Chunk(0, (1, 2)), Chunk(1, (1, 2)), Chunk(2, (1, 2), allowed=bytes(42))]
    good, *bad = driver.step(chunks, opened)
    assert good.error is None
    assert bad == [ChunkResult(error=NO_CHOICE)] * 2


@ON_EVERY_RUNNER
def test_info_says_what_the_model_is(backend: str) -> None:
    info = make_runner(backend, max_model_len=100, max_num_seqs=3).info
    assert (info.vocab_size, info.hidden_size, info.max_model_len) == (331, 48, 100)
    assert info.num_blocks == 3 * 4, "no more than three slots of 100 tokens can fill"
    assert info.block_bytes == 3 * 2 * info.block_size * 2 * 16 * np.dtype(np.float32).itemsize
