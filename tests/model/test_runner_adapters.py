"""Adapters side by side, in every runner: each slot is computed with its own, whatever the others of the step have."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.batch import Chunk, OpenedSlot
from model.config import ModelConfig
from model.formats import minimind
from model.formats.adapter import merge
from model.load import read_adapter
from model.native.library import NativeError, NativeUnavailable
from model.native.runner import NativeOptions, NativeRunner
from tests.model.adapters import LAYER_MATRICES, random_adapter
from tests.model.minimind_data import GOLDEN, needs_minimind
from tests.model.native.kernel_library import instruction_sets
from tests.model.native.library_here import needs_library
from tests.model.random_checkpoint import LLAMA, QWEN2, QWEN3, QWEN3_MOE, random_checkpoint
from tests.model.reading import answer_greedily, read_one_by_one
from tests.model.runners import GREEDY, ON_EVERY_RUNNER, make_runner, prompt_of
from tests.model.torch_backend.driver import Driver

ATTENTION = LAYER_MATRICES[:4]
# Config and the matrices that are adapted; where a layer has experts, none of its MLP can be.
CASES = [(LLAMA, LAYER_MATRICES), (QWEN2, ("v_proj", "gate_proj")), (QWEN3, ("q_proj", "up_proj", "down_proj"))]
CASES += [(QWEN3_MOE, LAYER_MATRICES)]
ON_EVERY_MODEL = pytest.mark.parametrize(("config", "names"), CASES, ids=[case[0].architecture for case in CASES])
LENGTHS = (1, 9, 40, 33, 2, 70)
NUMBERS = (2, 0, 1, 2, 1, 0)  # of the slots' adapters


def prompts() -> list[tuple[int, ...]]:
    return [prompt_of(length, length) for length in LENGTHS]


def adapters_of(config: ModelConfig, names: tuple[str, ...]) -> list[Any]:
    return [random_adapter(config, 1, 4, names), random_adapter(config, 2, 11, names)]


@needs_minimind
@ON_EVERY_RUNNER
def test_minimind_with_its_adapter_and_without_in_one_batch(backend: str) -> None:
    """As its own code computes both."""
    checkpoint = minimind.read(GOLDEN / "v3/full_sft_64.pth")
    adapter = read_adapter("x", GOLDEN / "v3-lora/lora_x_64.pth", checkpoint)
    limits = {"max_num_batched_tokens": 1024} if backend == "native" else {}
    runner = make_runner(backend, checkpoint, [adapter], max_model_len=512, kv_cache_memory=2**26, **limits)
    expected = load_file(GOLDEN / "v3-lora/expected.safetensors")
    cases = [(prefix, row) for row in ("0", "1", "2", "long") for prefix in ("", "base_")]
    rows = [expected[f"input_ids_{row}"].tolist() for _, row in cases]

    answers, _ = answer_greedily(runner, rows, 24, [0 if prefix else 1 for prefix, _ in cases])

    for (prefix, row), prompt, answer in zip(cases, rows, answers, strict=True):
        assert answer.tolist() == expected[f"{prefix}greedy_{row}"].tolist()
        ours = read_one_by_one(runner, prompt, 0 if prefix else 1)[expected[f"positions_{row}"]]
        torch.testing.assert_close(ours, expected[f"{prefix}logits_{row}"], rtol=0, atol=2e-4)


@ON_EVERY_MODEL
@ON_EVERY_RUNNER
def test_beside_the_model_is_as_merged_into_it(backend: str, config: ModelConfig, names: tuple[str, ...]) -> None:
    checkpoint, adapters = random_checkpoint(config, 3), adapters_of(config, names)
    tokens, logits = answer_greedily(make_runner(backend, checkpoint, adapters=adapters), prompts(), 8, NUMBERS)
    plain, _ = answer_greedily(make_runner(backend, checkpoint), prompts(), 8)

    for number, models in ((0, checkpoint), (1, merge(checkpoint, adapters[0])), (2, merge(checkpoint, adapters[1]))):
        merged_tokens, merged_logits = answer_greedily(make_runner(backend, models), prompts(), 8)
        for slot in (slot for slot, its in enumerate(NUMBERS) if its == number):
            assert tokens[slot].tolist() == merged_tokens[slot].tolist()
            torch.testing.assert_close(logits[slot], merged_logits[slot], rtol=0, atol=1e-3)
            assert number == 0 or tokens[slot].tolist() != plain[slot].tolist()


@ON_EVERY_RUNNER
def test_an_answer_is_the_same_beside_other_adapters(backend: str) -> None:
    adapters = adapters_of(LLAMA, LAYER_MATRICES)
    together, logits = answer_greedily(make_runner(backend, adapters=adapters), prompts(), 12, NUMBERS)

    runner = make_runner(backend, adapters=adapters)
    for slot, (prompt, number) in enumerate(zip(prompts(), NUMBERS, strict=True)):
        alone, its_logits = answer_greedily(runner, [prompt], 12, [number])
        assert alone[0].tolist() == together[slot].tolist()
        if backend != "torch-cuda":
            torch.testing.assert_close(its_logits[0], logits[slot], rtol=0, atol=0 if backend == "native" else 1e-4)


@ON_EVERY_RUNNER
def test_a_slot_number_keeps_nothing_of_its_last_adapter(backend: str) -> None:
    driver = Driver(make_runner(backend, adapters=adapters_of(LLAMA, LAYER_MATRICES)))
    prompt, seen = prompt_of(20), []
    for number in (1, 0, 2, 0):
        opened = OpenedSlot(0, 1, len(prompt), GREEDY, adapter=number)
        tokens = [driver.step([Chunk(0, prompt)], [opened])[0].token_id]
        tokens += [driver.step([Chunk(0)])[0].token_id for _ in range(12)]
        driver.step([], freed=[0])
        seen.append(tokens)

    assert seen[1] == seen[3]
    assert len({tuple(tokens) for tokens in seen}) == 3


@needs_library
@pytest.mark.parametrize("instruction_set", instruction_sets())
@ON_EVERY_MODEL
def test_every_instruction_set_computes_what_torch_does(
    config: ModelConfig, names: tuple[str, ...], instruction_set: str
) -> None:
    checkpoint, adapters = random_checkpoint(config, 3), adapters_of(config, names)
    _, expected = answer_greedily(make_runner("torch", checkpoint, adapters=adapters), prompts(), 4, NUMBERS)
    runner = make_runner("native", checkpoint, adapters=adapters, instruction_set=instruction_set)

    _, logits = answer_greedily(runner, prompts(), 4, NUMBERS)

    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3)


@needs_library
def test_the_library_refuses_an_adapter_that_is_not_there() -> None:
    driver = Driver(make_runner("native", adapters=adapters_of(LLAMA, ATTENTION)))
    for number in (-1, 3):
        with pytest.raises(NativeError, match=f"there is no adapter {number}"):
            driver.step([], [OpenedSlot(number, 1, 1, GREEDY, adapter=number)])


@needs_library
def test_the_library_refuses_an_adapter_beside_experts() -> None:
    adapter = random_adapter(LLAMA, 1, names=("up_proj",))
    with pytest.raises(NativeUnavailable, match="up of layer 0, expert 0: no adapter can be beside it"):
        NativeRunner(random_checkpoint(QWEN3_MOE, 3), NativeOptions(kv_cache_memory=2**21), [adapter])
