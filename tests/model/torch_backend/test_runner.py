"""The runner as the engine uses it: batches in, tokens out. A request's tokens are its own whatever goes on beside."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.batch import (
    Batch,
    Chunk,
    ChunkResult,
    FreedSlot,
    OpenedSlot,
    RunnerInfo,
    SamplingParams,
)
from model.config import ModelConfig
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint
from model.torch_backend.runner import TorchOptions, TorchRunner
from tests.model.random_checkpoint import LLAMA, QWEN2, QWEN3_MOE, float32_tensor, random_checkpoint
from tests.model.torch_backend.devices import ON_EVERY_DEVICE
from tests.model.torch_backend.driver import Driver
from tests.model.torch_backend.resident import needs_linux, resident_bytes

GREEDY = SamplingParams(temperature=0.0)
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, seed=7)
PENALISED = SamplingParams(temperature=0.7, top_k=40, repetition_penalty=1.2, frequency_penalty=0.3, seed=2**64 - 1)
WAYS = {"greedy": GREEDY, "sampled": SAMPLED, "penalised": PENALISED}


def make_runner(config: ModelConfig = LLAMA, device: str = "cpu", **options: object) -> TorchRunner:
    asked = TorchOptions(device=device, dtype="float32", kv_cache_memory=2**20, debug_poison=True)
    return TorchRunner(random_checkpoint(config, 3), replace(asked, **options))


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 331, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@ON_EVERY_DEVICE
@pytest.mark.parametrize("config", [LLAMA, QWEN2, QWEN3_MOE], ids=lambda config: config.architecture)
def test_requests_together_give_what_each_gives_alone(config: ModelConfig, device: str) -> None:
    """Eight that start one after another, in other slots than alone, in blocks that others have left."""
    driver = Driver(make_runner(config, device))
    requests = [(prompt_of(3 + 11 * i, i), list(WAYS.values())[i % 3]) for i in range(8)]
    alone = [driver.generate(prompt, params, 12) for prompt, params in requests]
    together: list[list[int | None]] = [[] for _ in requests]
    for start in range(8 + 12):
        running = [i for i in range(8) if i < start and len(together[i]) < 12]
        finished = [7 - i for i in range(8) if len(together[i]) == 12 and 7 - i in driver.blocks]
        chunks, opened = [Chunk(7 - i) for i in running], []
        if start < 8:
            prompt, params = requests[start]
            chunks.append(Chunk(7 - start, tuple(prompt)))
            opened.append(OpenedSlot(7 - start, 1, len(prompt), params))
        for chunk, result in zip(chunks, driver.step(chunks, opened, finished), strict=True):
            together[7 - chunk.slot].append(result.token_id)
    assert together == alone


@ON_EVERY_DEVICE
@pytest.mark.parametrize("params", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("cuts", [[1], [32], [5, 37, 38], [100]])
def test_a_prompt_in_chunks_gives_what_it_gives_whole(params: SamplingParams, cuts: list[int], device: str) -> None:
    driver, prompt = Driver(make_runner(device=device)), prompt_of(101)
    whole = driver.generate(prompt, params, 5)
    opened = [OpenedSlot(0, 2, len(prompt), params)]
    for start, end in zip([0, *cuts], cuts, strict=False):
        assert driver.step([Chunk(0, tuple(prompt[start:end]), samples=False)], opened) == (ChunkResult(),)
        opened = []
    results = driver.step([Chunk(0, tuple(prompt[cuts[-1] :]))]) + sum((driver.step([Chunk(0)]) for _ in range(4)), ())
    assert [result.token_id for result in results] == whole


@pytest.mark.parametrize("params", WAYS.values(), ids=WAYS)
def test_a_request_that_was_set_back_goes_on_as_if_nothing_had_been(params: SamplingParams) -> None:
    driver, prompt = Driver(make_runner()), prompt_of(40)
    expected = driver.generate(prompt, params, 20)
    opened = OpenedSlot(0, 1, len(prompt), params)
    tokens = [driver.step([Chunk(0, tuple(prompt))], [opened])[0].token_id]
    while len(tokens) < 9:
        tokens.append(driver.step([Chunk(0)])[0].token_id)
    driver.step([], freed=[0])
    again = replace(opened, slot=5)  # its prompt is as long as it was: what it generated counts as output
    tokens.append(driver.step([Chunk(5, (*prompt, *tokens))], [again])[0].token_id)
    while len(tokens) < 20:
        tokens.append(driver.step([Chunk(5)])[0].token_id)
    assert tokens == expected


def test_min_tokens_count_from_the_prompts_end() -> None:
    driver, prompt = Driver(make_runner()), prompt_of(10)
    first, second = driver.generate(prompt, GREEDY, 2)
    assert driver.generate(prompt, replace(GREEDY, min_tokens=0, suppressed_token_ids=(first,)), 1) == [first]
    assert driver.generate(prompt, replace(GREEDY, min_tokens=1, suppressed_token_ids=(first,)), 1) != [first]
    assert driver.generate(prompt, replace(GREEDY, min_tokens=1, suppressed_token_ids=(second,)), 2) == [first, second]


def test_blocks_are_destroyed_when_they_are_freed_before_their_next_owner_has_them() -> None:
    runner = make_runner(kv_cache_memory=2**16, debug_poison=False)
    driver, cache = Driver(runner), runner._cache
    driver.step([Chunk(0, tuple(prompt_of(40)))], [OpenedSlot(0, 1, 40, GREEDY)])
    used = list(driver.blocks[0])
    assert all(cache.contents(block_id).any() for block_id in used)
    driver.step([Chunk(1, (5,))], [OpenedSlot(1, 1, 1, GREEDY)], freed=[0])
    (reused,) = driver.blocks[1]
    assert reused in used
    assert not any(cache.contents(block_id).any() for block_id in used if block_id != reused)
    assert cache.contents(reused).count_nonzero() == LLAMA.num_layers * 2 * LLAMA.num_kv_heads * LLAMA.head_dim


def test_freeing_twice_or_what_was_never_open_is_no_error() -> None:
    driver, prompt = Driver(make_runner()), prompt_of(40)
    expected = driver.generate(prompt, GREEDY, 3)
    freed = (FreedSlot(0, (0, 1)), FreedSlot(9, (4,)), FreedSlot(12, ()))
    assert driver.runner.run(Batch(freed=freed)).results == ()
    assert driver.runner.run(Batch(freed=freed)).results == ()
    assert driver.generate(prompt, GREEDY, 3) == expected


def _run_out_of_memory(_: Tensor) -> Tensor:
    raise RuntimeError("out of memory")


def test_after_a_step_that_failed_its_slots_are_freed_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, prompt = Driver(make_runner()), prompt_of(40)
    expected = driver.generate(prompt, GREEDY, 6)
    tokens = [driver.step([Chunk(0, tuple(prompt))], [OpenedSlot(0, 1, 40, GREEDY)])[0].token_id]
    with pytest.raises(AssertionError):  # a token outside the vocabulary: the engine's mistake
        driver.step([Chunk(1, (331,))], [OpenedSlot(1, 1, 1, GREEDY)])
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "silu", _run_out_of_memory)  # with keys and values of one layer written
        with pytest.raises(RuntimeError, match="out of memory"):
            driver.step([Chunk(2, tuple(prompt))], [OpenedSlot(2, 1, 40, GREEDY)])
    (result,) = driver.step([Chunk(0)], freed=[1, 2])
    tokens += [result.token_id, *(driver.step([Chunk(0)])[0].token_id for _ in range(4))]
    assert tokens == expected
    assert driver.generate(prompt, GREEDY, 6, slot=2) == expected


def checkpoint_that_breaks_on(token_id: int) -> Checkpoint:
    """Hidden dimension 0 is zero for all tokens but one, whose scores overflow."""
    checkpoint = random_checkpoint(LLAMA, 3)
    weights = dict(checkpoint.weights)
    for name, tensor in checkpoint.weights.items():
        values = tensor.to_float32()
        if "embed_tokens" in name:
            values[:, 0] = 0
            values[token_id, 0] = 1
        elif "o_proj" in name or "down_proj" in name:
            values[0] = 0
        elif "input_layernorm" in name:
            values[0] = 1e25
        weights[name] = float32_tensor(tensor.path, name, values)
    return replace(checkpoint, weights=weights)


def test_numbers_that_overflow_in_one_request_fail_that_one() -> None:
    options = TorchOptions(device="cpu", kv_cache_memory=2**20, debug_poison=True)
    driver = Driver(TorchRunner(checkpoint_that_breaks_on(17), options))
    prompts = [[token for token in prompt_of(20, seed) if token != 17] for seed in range(3)]
    alone = [driver.generate(prompt, GREEDY, 1) for prompt in prompts]
    prompts[1][4] = 17
    chunks = [Chunk(slot, tuple(prompt)) for slot, prompt in enumerate(prompts)]
    results = driver.step(chunks, [OpenedSlot(slot, 1, len(p), GREEDY) for slot, p in enumerate(prompts)])
    assert results[1].error is not None
    assert [[results[0].token_id], [results[2].token_id]] == [alone[0], alone[2]]


@needs_linux
def test_memory_grows_with_tokens_and_is_given_back_when_slots_are_freed() -> None:
    """In a pool of 256 MiB, of which 50 blocks are lived in."""
    config = replace(LLAMA, num_layers=4, num_heads=8, num_kv_heads=8, head_dim=128, max_positions=2048)
    runner = make_runner(config, kv_cache_memory=2**28, debug_poison=False)
    driver, pool, block_bytes = Driver(runner), runner._cache.contents(0), runner.info.block_bytes
    prompt, opened = tuple(prompt_of(1600)), [OpenedSlot(0, 1, 1600, GREEDY)]
    assert (runner.info.num_blocks, resident_bytes(pool)) == (256, 0)
    for start in range(0, 1600, 320):
        driver.step([Chunk(0, prompt[start : start + 320], samples=False)], opened if start == 0 else ())
        assert resident_bytes(pool) == (start + 320) // 32 * block_bytes
    driver.step([Chunk(1, (7,))], [OpenedSlot(1, 1, 1, GREEDY)], freed=[0])
    assert resident_bytes(pool) <= block_bytes
    driver.step([], freed=[1])
    assert resident_bytes(pool) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"kv_dtype": "bfloat16"},
        {"kv_dtype": "float16"},
        {"dtype": "bfloat16"},
        {"dtype": "float16", "kv_dtype": "float32"},
    ],
)
@ON_EVERY_DEVICE
def test_half_precision_is_near_the_reference(options: dict[str, str], device: str) -> None:
    params, prompt = replace(GREEDY, num_logprobs=0), tuple(prompt_of(70))
    results = []
    for asked in ({}, options):
        driver = Driver(make_runner(device=device, **asked))
        first = driver.step([Chunk(0, prompt[:64], samples=False)], [OpenedSlot(0, 1, 70, params)])
        results.append(driver.step([Chunk(0, prompt[64:])]))
        assert first == (ChunkResult(),)
    (reference,), (half,) = results
    assert half.token_id == reference.token_id
    assert half.logprob == pytest.approx(reference.logprob, abs=0.15)


def test_info_says_what_the_runner_is_and_has() -> None:
    runner = make_runner(max_model_len=100, max_num_seqs=3, num_threads=1)
    assert runner.info == RunnerInfo(
        backend="torch",
        device="cpu",
        dtype="float32",
        kv_dtype="float32",
        num_threads=1,
        vocab_size=331,
        max_model_len=100,
        block_size=32,
        num_blocks=12,  # no more than three slots of 100 tokens can fill
        block_bytes=3 * 2 * 32 * 2 * 16 * 4,
    )
    assert runner.info.kv_bytes_per_token == 3 * 2 * 2 * 16 * 4
    assert make_runner(kv_dtype="bfloat16").info.block_bytes == runner.info.block_bytes // 2


def test_what_cannot_be_is_refused_when_the_runner_is_made() -> None:
    with pytest.raises(ModelError, match="one block of 32 positions takes 24,576 bytes"):
        make_runner(kv_cache_memory=24_575)
    with pytest.raises(ModelError, match="max_model_len 513"):
        make_runner(max_model_len=513)
