"""What this runner has to itself. What all of them do alike is in tests/model/test_runners.py and its neighbours."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.batch import (
    Chunk,
    ChunkResult,
    OpenedSlot,
    RunnerInfo,
)
from model.config import ModelConfig
from model.errors import ModelError
from model.torch_backend.runner import TorchOptions, TorchRunner
from tests.model.random_checkpoint import LLAMA, random_checkpoint
from tests.model.random_checkpoint import checkpoint_that_breaks_on as checkpoint_that_breaks_on  # for native's tests
from tests.model.runners import GREEDY, prompt_of
from tests.model.torch_backend.devices import ON_EVERY_DEVICE
from tests.model.torch_backend.driver import Driver
from tests.model.torch_backend.resident import needs_linux, resident_bytes


def make_runner(config: ModelConfig = LLAMA, device: str = "cpu", **options: object) -> TorchRunner:
    asked = TorchOptions(device=device, dtype="float32", kv_cache_memory=2**20, debug_poison=True)
    return TorchRunner(random_checkpoint(config, 3), replace(asked, **options))


def test_blocks_are_destroyed_when_they_are_freed_before_their_next_owner_has_them() -> None:
    runner = make_runner(kv_cache_memory=2**16, debug_poison=False)
    driver, cache = Driver(runner), runner._cache
    driver.step([Chunk(0, prompt_of(40))], [OpenedSlot(0, 1, 40, GREEDY)])
    used = list(driver.blocks[0])
    assert all(cache.contents(block_id).any() for block_id in used)
    driver.step([Chunk(1, (5,))], [OpenedSlot(1, 1, 1, GREEDY)], freed=[0])
    (reused,) = driver.blocks[1]
    assert reused in used
    assert not any(cache.contents(block_id).any() for block_id in used if block_id != reused)
    assert cache.contents(reused).count_nonzero() == LLAMA.num_layers * 2 * LLAMA.num_kv_heads * LLAMA.head_dim


def _run_out_of_memory(_: Tensor) -> Tensor:
    raise RuntimeError("out of memory")


def test_after_a_step_that_ended_in_the_middle_its_slots_are_freed_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver, prompt = Driver(make_runner()), prompt_of(40)
    expected = driver.generate(prompt, GREEDY, 6)
    tokens = [driver.step([Chunk(0, prompt)], [OpenedSlot(0, 1, 40, GREEDY)])[0].token_id]
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "silu", _run_out_of_memory)  # with keys and values of one layer written
        with pytest.raises(RuntimeError, match="out of memory"):
            driver.step([Chunk(2, prompt)], [OpenedSlot(2, 1, 40, GREEDY)])
    (result,) = driver.step([Chunk(0)], freed=[2])
    tokens += [result.token_id, *(driver.step([Chunk(0)])[0].token_id for _ in range(4))]
    assert tokens == expected
    assert driver.generate(prompt, GREEDY, 6, slot=2) == expected


@needs_linux
def test_memory_grows_with_tokens_and_is_given_back_when_slots_are_freed() -> None:
    """In a pool of 256 MiB, of which 50 blocks are lived in."""
    config = replace(LLAMA, num_layers=4, num_heads=8, num_kv_heads=8, head_dim=128, max_positions=2048)
    runner = make_runner(config, kv_cache_memory=2**28, debug_poison=False)
    driver, pool, block_bytes = Driver(runner), runner._cache.contents(0), runner.info.block_bytes
    prompt, opened = prompt_of(1600), [OpenedSlot(0, 1, 1600, GREEDY)]
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
    params, prompt = replace(GREEDY, num_logprobs=0), prompt_of(70)
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
        hidden_size=48,
        instruction_set=torch.backends.cpu.get_cpu_capability().lower(),
    )
    assert runner.info.kv_bytes_per_token == 3 * 2 * 2 * 16 * 4
    assert make_runner(kv_dtype="bfloat16").info.block_bytes == runner.info.block_bytes // 2


def test_what_cannot_be_is_refused_when_the_runner_is_made() -> None:
    with pytest.raises(ModelError, match="one block of 32 positions takes 24,576 bytes"):
        make_runner(kv_cache_memory=24_575)
    with pytest.raises(ModelError, match="max_model_len 513"):
        make_runner(max_model_len=513)
