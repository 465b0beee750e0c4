"""The runner as the engine uses it, against the torch backend in float32 on the same weights. What each kernel does is
tested beside the kernels."""

import gc
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.batch import (
    Batch,
    Chunk,
    ChunkResult,
    FreedSlot,
    GrownSlot,
    OpenedSlot,
    RunnerInfo,
    SamplingParams,
)
from model.config import ModelConfig
from model.cpu import num_usable_cores
from model.errors import ModelError
from model.native import runner as native_runner
from model.native.library import NativeError, NativeLibrary, NativeUnavailable
from model.native.runner import NativeOptions, NativeRunner
from model.torch_backend.runner import TorchOptions, TorchRunner
from tests.model.native.library_here import needs_library
from tests.model.random_checkpoint import LLAMA, MINIMIND_MOE, QWEN2, QWEN3, QWEN3_MOE, random_checkpoint
from tests.model.reading import answer_greedily, read_one_by_one
from tests.model.torch_backend.driver import Driver

pytestmark = needs_library

GREEDY = SamplingParams(temperature=0.0)
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, seed=7)
PENALISED = SamplingParams(temperature=0.7, top_k=40, repetition_penalty=1.2, frequency_penalty=0.3, seed=2**64 - 1)
WAYS = {"greedy": GREEDY, "sampled": SAMPLED, "penalised": PENALISED}
CONFIGS = pytest.mark.parametrize(
    "config", [LLAMA, QWEN2, QWEN3, QWEN3_MOE, MINIMIND_MOE], ids=lambda config: config.architecture
)


def make_runner(config: ModelConfig = LLAMA, **options: object) -> NativeRunner:
    asked = NativeOptions(dtype="float32", kv_dtype="float32", num_threads=2, kv_cache_memory=2**21, debug_poison=True)
    return NativeRunner(random_checkpoint(config, 3), replace(asked, **options))


def torch_runner(config: ModelConfig) -> TorchRunner:
    return TorchRunner(random_checkpoint(config, 3), TorchOptions(device="cpu", kv_cache_memory=2**21))


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 331, length).tolist()


@CONFIGS
def test_float32_computes_what_the_reference_does(config: ModelConfig) -> None:
    prompts = [prompt_of(length, length) for length in (1, 7, 33, 90)]
    tokens, logits = answer_greedily(make_runner(config), prompts, 12)
    expected_tokens, expected = answer_greedily(torch_runner(config), prompts, 12)
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-4)
    assert torch.equal(tokens, expected_tokens)


@CONFIGS
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"kv_dtype": "bfloat16"}, 0.05),
        ({"kv_dtype": "int8"}, 0.1),
        ({"dtype": "bfloat16"}, 0.1),
        ({"dtype": "auto", "weights": "int8"}, 0.15),
        ({"dtype": "auto", "weights": "int4"}, 0.6),
    ],
)
def test_smaller_types_are_near_the_reference(config: ModelConfig, options: dict[str, str], tolerance: float) -> None:
    """In the mean over all logits, which are about 1 to 10 in size."""
    tokens = prompt_of(70)
    expected = read_one_by_one(torch_runner(config), tokens)
    errors = read_one_by_one(make_runner(config, **options), tokens) - expected
    assert errors.square().mean().sqrt() < tolerance * expected.square().mean().sqrt()


@pytest.mark.parametrize("params", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16", "kv_dtype": "int8"}])
def test_a_prompt_in_chunks_gives_the_same_bits_as_whole(params: SamplingParams, options: dict[str, str]) -> None:
    driver, prompt = Driver(make_runner(**options)), prompt_of(101)
    params = replace(params, num_logprobs=3)
    answers = []
    for cuts in ([], [1], [32], [5, 37, 38], [100]):
        opened = [OpenedSlot(0, 2, len(prompt), params)]
        for start, end in zip([0, *cuts], cuts, strict=False):
            assert driver.step([Chunk(0, tuple(prompt[start:end]), samples=False)], opened) == (ChunkResult(),)
            opened = []
        last = [*driver.step([Chunk(0, tuple(prompt[cuts[-1] if cuts else 0 :]))], opened)]
        answers.append(last + [driver.step([Chunk(0)])[0] for _ in range(4)])
        driver.step([], freed=[0])
    assert all(answer == answers[0] for answer in answers)


def test_suppressed_tokens_are_remembered_after_the_step_that_opened_the_slot() -> None:
    driver, prompt = Driver(make_runner()), prompt_of(10)
    first, second = driver.generate(prompt, GREEDY, 2)
    gc.collect()
    assert driver.generate(prompt, replace(GREEDY, min_tokens=1, suppressed_token_ids=(second,)), 2) == [first, second]
    assert driver.generate(prompt, replace(GREEDY, min_tokens=2, suppressed_token_ids=(second,)), 2)[1] != second


def test_the_contents_of_freed_blocks_are_gone() -> None:
    runner = make_runner(kv_cache_memory=2**18, debug_poison=False)
    driver = Driver(runner)
    driver.step([Chunk(0, tuple(prompt_of(40)))], [OpenedSlot(0, 1, 40, GREEDY)])
    used = list(driver.blocks[0])
    assert all(runner.contents(block_id).any() for block_id in used)
    driver.step([], freed=[0])
    assert not any(runner.contents(block_id).any() for block_id in used)
    with pytest.raises(NativeError):
        runner.contents(runner.info.num_blocks)


def test_a_block_of_one_slot_is_neither_given_to_another_nor_freed_by_it() -> None:
    """The engine never asks for that; the runner does not take its word for it."""
    driver, prompt = Driver(make_runner()), tuple(prompt_of(40))
    expected = driver.generate(prompt, GREEDY, 3)
    tokens = [driver.step([Chunk(0, prompt)], [OpenedSlot(0, 1, 40, GREEDY)])[0].token_id]
    (block, *_), other = driver.blocks[0], OpenedSlot(1, 1, 1, GREEDY)
    with pytest.raises(NativeError, match=f"slot 1 is given block {block} of slot 0"):
        driver.runner.run(Batch(opened=(other,), grown=(GrownSlot(1, (block,)),)))
    with pytest.raises(NativeError, match=f"slot 1 frees block {block} of slot 0"):
        driver.runner.run(Batch(freed=(FreedSlot(1, (block,)),)))
    tokens += [driver.step([Chunk(0)])[0].token_id for _ in range(2)]
    assert tokens == expected
    with pytest.raises(NativeError, match=f"slot 0 would keep block {block}"):
        driver.runner.run(Batch(freed=(FreedSlot(0, tuple(driver.blocks[0][1:])),)))


def test_a_step_that_cannot_be_is_an_exception_and_others_go_on() -> None:
    driver, prompt = Driver(make_runner()), prompt_of(40)
    expected = driver.generate(prompt, GREEDY, 6)
    tokens = [driver.step([Chunk(0, tuple(prompt))], [OpenedSlot(0, 1, 40, GREEDY)])[0].token_id]
    with pytest.raises(NativeError, match="no such token id"):  # the engine's mistake
        driver.step([Chunk(1, (331,))], [OpenedSlot(1, 1, 1, GREEDY)])
    with pytest.raises(NativeError):  # a slot that is not open
        driver.runner.run(Batch(chunks=(Chunk(7, (1,)),)))
    (result,) = driver.step([Chunk(0)], freed=[1])
    tokens += [result.token_id, *(driver.step([Chunk(0)])[0].token_id for _ in range(4))]
    assert tokens == expected


def logits_of(runner: NativeRunner, tokens: Sequence[int]) -> np.ndarray:
    return np.asarray(read_one_by_one(runner, tokens))


def test_every_instruction_set_of_this_processor_computes_the_same() -> None:
    sets = NativeLibrary.open().instruction_sets()
    tokens = prompt_of(40)
    computed = [logits_of(make_runner(instruction_set=name), tokens) for name in sets]
    for one in computed:
        np.testing.assert_allclose(one, computed[-1], rtol=0, atol=2e-4)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(num_threads: int) -> None:
    tokens = prompt_of(40)
    one = logits_of(make_runner(num_threads=1, dtype="bfloat16"), tokens)
    assert np.array_equal(logits_of(make_runner(num_threads=num_threads, dtype="bfloat16"), tokens), one)


def test_info_says_what_the_runner_is_and_has() -> None:
    runner = make_runner(max_model_len=100, max_num_seqs=3, num_threads=1)
    assert runner.info == RunnerInfo(
        backend="native",
        device="cpu",
        dtype="float32",
        kv_dtype="float32",
        num_threads=1,
        vocab_size=331,
        max_model_len=100,
        block_size=32,
        num_blocks=12,  # no more than three slots of 100 tokens can fill
        block_bytes=3 * 2 * 32 * 2 * 16 * 4,
        hidden_size=48,
        instruction_set=NativeLibrary.open().instruction_sets()[0],
    )
    plainest = NativeLibrary.open().instruction_sets()[-1]
    assert make_runner(instruction_set=plainest).info.instruction_set == plainest
    assert make_runner(kv_dtype="bfloat16").info.block_bytes == runner.info.block_bytes // 2
    assert make_runner(kv_dtype="auto").info.kv_dtype == "bfloat16"
    assert make_runner(num_threads=None).info.num_threads == num_usable_cores()


def test_one_line_says_which_instruction_set_is_used(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    make_runner(instruction_set="scalar")
    assert caplog.messages == ["the native backend computes, with scalar and 0.4 MB of weights"]


def test_what_cannot_be_is_refused_when_the_runner_is_made() -> None:
    with pytest.raises(ModelError, match="one block of 32 positions takes 24,576 bytes"):
        make_runner(kv_cache_memory=24_575)
    with pytest.raises(ModelError, match="max_model_len 513"):
        make_runner(max_model_len=513)
    with pytest.raises(NativeUnavailable, match="no weights in float16"):
        make_runner(dtype="float16")
    with pytest.raises(NativeUnavailable, match="cannot run this model: "):
        make_runner(instruction_set="no such set")


def test_what_the_library_made_is_freed_the_runner_before_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    freed = []
    for name in ("free_runner", "free_model"):
        real = getattr(NativeLibrary, name)

        def free(self: NativeLibrary, address: int, name: str = name, real: object = real) -> None:
            freed.append(name)
            real(self, address)  # type: ignore[operator]

        monkeypatch.setattr(native_runner.NativeLibrary, name, free)
    runner = make_runner()
    Driver(runner).generate(prompt_of(5), GREEDY, 2)
    del runner
    gc.collect()
    assert freed == ["free_runner", "free_model"]


def test_the_parts_of_a_step_are_timed() -> None:
    runner = make_runner()
    Driver(runner).generate(prompt_of(5), GREEDY, 2)
    profile = runner.profile()
    assert profile
    assert all(nanoseconds >= 0 for nanoseconds in profile.values())
    assert sum(profile.values()) > 0
