"""The isolation checks, on every runner: what they do not change, and each of the ways in which isolation could be
broken, broken on purpose: the detector fires, at the slots concerned and at no other.

Memory is poked through `contents`, a slot's list of blocks through `misplace`; blocks are found by their stamps.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor

from model.batch import NOT_ISOLATED, Chunk, ChunkResult, OpenedSlot, SamplingParams
from model.isolation import MARK, Breach, Stamp, Violation
from model.native.runner import NativeOptions, NativeRunner
from model.options import IsolationChecksName
from model.torch_backend.kv_cache import KVCache
from model.torch_backend.runner import TorchOptions, TorchRunner
from model.torch_backend.transformer import Transformer
from tests.model.native.library_here import needs_library
from tests.model.random_checkpoint import LLAMA, random_checkpoint
from tests.model.reading import ReadableRunner
from tests.model.runners import NO_CUDA, prompt_of
from tests.model.torch_backend.driver import Driver

SAMPLED = SamplingParams(temperature=0.9, seed=7, num_logprobs=2)
SLOTS = (0, 1, 2)
LENGTH = 70  # of each prompt: two full blocks, and one that is not
STAMP = MARK.to_bytes(8, "little")


class PokableRunner(ReadableRunner, Protocol):
    def contents(self, block_id: int) -> Any: ...
    def misplace(self, slot: int, index: int, block_id: int) -> None: ...


def make_runner(backend: str, checks: IsolationChecksName, poison: bool = False) -> PokableRunner:
    checkpoint = random_checkpoint(LLAMA, 3)
    if backend == "native":
        native = NativeOptions(num_threads=2, kv_cache_memory=2**20, debug_poison=poison, isolation_checks=checks)
        return NativeRunner(checkpoint, native)
    device: Any = "cuda" if backend == "torch-cuda" else "cpu"
    asked = TorchOptions(device=device, dtype="float32", num_threads=1, kv_cache_memory=2**20, debug_poison=poison)
    return TorchRunner(checkpoint, replace(asked, isolation_checks=checks))


class Trial:
    """Three requests under way, whose memory can be poked."""

    def __init__(self, runner: PokableRunner) -> None:
        self.runner = runner
        self.driver = Driver(runner)
        opened = [OpenedSlot(slot, 11 + slot, LENGTH, SAMPLED) for slot in SLOTS]
        self.results = [self.driver.step([Chunk(slot, prompt_of(LENGTH, slot)) for slot in SLOTS], opened)]

    def step(self, slots: Sequence[int] = SLOTS) -> tuple[ChunkResult, ...]:
        self.results.append(self.driver.step([Chunk(slot) for slot in slots]))
        return self.results[-1]

    def failing(self) -> set[int]:
        """The slots that the next step ends with an error."""
        return {slot for slot, result in zip(SLOTS, self.step(), strict=True) if result.error}

    def block(self, slot: int, index: int) -> int:
        return self.driver.blocks[slot][index]

    def memory(self, block_id: int) -> Tensor:
        """uint8, a view."""
        return torch.as_tensor(self.runner.contents(block_id)).view(torch.uint8)

    def stamp(self, block_id: int) -> Tensor:
        """int64 [5], a view."""
        memory = self.memory(block_id)
        start = bytes(memory.tolist()).index(STAMP)
        return memory[start : start + 40].view(torch.int64)

    def swap_memory(self, a: int, b: int) -> None:
        kept = self.memory(a).clone()
        self.memory(a).copy_(self.memory(b))
        self.memory(b).copy_(kept)


BACKENDS = [
    pytest.param("native", marks=needs_library),
    "torch",
    pytest.param("torch-cuda", marks=[pytest.mark.cuda, NO_CUDA]),
]
ON_EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
CHECKS = pytest.mark.parametrize(("checks", "poison"), [("canary", False), ("debug", False), ("debug", True)])


@pytest.fixture
def trial(backend: str, checks: IsolationChecksName, poison: bool) -> Trial:
    trial = Trial(make_runner(backend, checks, poison))
    assert trial.failing() == set()
    return trial


def breaches(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """(what, of which block), of the critical lines of the log."""
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert all(line.startswith("isolation check failed: block ") for line in lines), lines
    return [(breach, line.split()[4]) for line in lines for breach in Breach if breach in line]


@ON_EVERY_BACKEND
def test_answers_are_bit_equal_with_and_without_checks(backend: str) -> None:
    answers = []
    kinds: tuple[IsolationChecksName, ...] = ("off", "canary", "debug")
    for checks in kinds:
        trial = Trial(make_runner(backend, checks))
        for _ in range(40):  # blocks become full on the way
            trial.step()
        answers.append(trial.results)
        trial.driver.step([], freed=SLOTS)
        assert trial.driver.generate(prompt_of(LENGTH, 1), SAMPLED, 2) == [
            result.token_id for result in (trial.results[0][1], trial.results[1][1])
        ]  # in blocks that were others'
    assert all(not result.error for step in answers[0] for result in step)
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]


@ON_EVERY_BACKEND
@CHECKS
def test_blocks_that_change_places_between_slots(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    a, b = trial.block(0, 0), trial.block(1, 0)
    trial.runner.misplace(0, 0, b)
    trial.runner.misplace(1, 0, a)
    assert trial.failing() == {0, 1}
    assert {*breaches(caplog)} == {(Breach.OTHER_STAMP, str(a)), (Breach.OTHER_STAMP, str(b))}
    assert "slot 1 generation 12 index 0" in caplog.text


@ON_EVERY_BACKEND
@CHECKS
def test_memory_that_changes_places_between_slots(trial: Trial) -> None:
    trial.swap_memory(trial.block(0, 1), trial.block(2, 1))
    assert trial.failing() == {0, 2}


@ON_EVERY_BACKEND
@CHECKS
def test_blocks_of_one_slot_that_change_places(trial: Trial) -> None:
    a, b = trial.block(1, 0), trial.block(1, 1)
    trial.runner.misplace(1, 0, b)
    trial.runner.misplace(1, 1, a)
    assert trial.failing() == {1}


@ON_EVERY_BACKEND
@CHECKS
def test_a_block_in_two_slots_fails_the_one_that_does_not_own_it_before_it_writes_there(trial: Trial) -> None:
    block_id = trial.block(1, 2)
    before = trial.memory(block_id).clone()
    trial.runner.misplace(0, 2, block_id)
    results = trial.driver.step([Chunk(0), Chunk(2)])
    assert [result.error for result in results] == [NOT_ISOLATED, None]
    assert results[0].token_id is None
    assert torch.equal(trial.memory(block_id), before)
    assert not trial.step((1,))[0].error


@ON_EVERY_BACKEND
@CHECKS
def test_a_stale_generation(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    trial.stamp(trial.block(2, 1))[1] -= 1
    assert trial.failing() == {2}
    assert "expected: slot 2 generation 13" in caplog.text
    assert "found: slot 2 generation 12" in caplog.text


@ON_EVERY_BACKEND
@CHECKS
def test_a_write_beyond_the_end_of_a_block_is_seen_and_what_was_written_not_told(
    trial: Trial, caplog: pytest.LogCaptureFixture
) -> None:
    trial.stamp(trial.block(1, 2)).view(torch.uint8)[:16] = 0x77
    assert trial.failing() == {1}
    assert "found: none" in caplog.text
    assert str(0x7777777777777777) not in caplog.text


@ON_EVERY_BACKEND
@CHECKS
@pytest.mark.parametrize("byte", [0, 5000, -1])
def test_a_write_into_a_full_block_of_a_neighbour(
    trial: Trial, checks: str, byte: int, caplog: pytest.LogCaptureFixture
) -> None:
    """In debug at once; else each slot has its turn, and in it each of its full blocks."""
    block_id = trial.block(1, 1)
    memory = trial.memory(block_id)
    end = bytes(memory.tolist()).index(STAMP)
    memory[byte % end] ^= 1
    seen = [trial.failing() for _ in range(1 if checks == "debug" else len(SLOTS) * 2)]
    assert {1} in seen
    assert set().union(*seen) == {1}
    assert {*breaches(caplog)} == {(Breach.CHANGED, str(block_id))}


@ON_EVERY_BACKEND
@CHECKS
def test_a_freed_block_that_still_holds_what_it_held(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    last_given = trial.block(0, 2)
    held = trial.memory(last_given).clone()
    trial.driver.step([], freed=[0])
    trial.memory(last_given).copy_(held)
    again = [OpenedSlot(0, 20, LENGTH, SAMPLED)]
    (result,) = trial.driver.step([Chunk(0, prompt_of(LENGTH, 0))], again)
    assert result.error == NOT_ISOLATED
    assert breaches(caplog) == [(Breach.NOT_CLEAR, str(last_given))]
    trial.driver.step([], freed=[0])
    assert trial.driver.generate(prompt_of(LENGTH, 0), SAMPLED, 1) == [trial.results[0][0].token_id]


@ON_EVERY_BACKEND
@pytest.mark.parametrize(("checks", "poison"), [("debug", False), ("debug", True)])
@pytest.mark.parametrize("byte", [0, 7777, -1])
def test_a_single_byte_in_a_block_that_is_nobodys(trial: Trial, byte: int) -> None:
    block_id = trial.block(0, 2)
    trial.driver.step([], freed=[0])
    trial.memory(block_id)[byte] ^= 0x7F
    (result,) = trial.driver.step([Chunk(0, prompt_of(LENGTH, 0))], [OpenedSlot(0, 20, LENGTH, SAMPLED)])
    assert result.error == NOT_ISOLATED


@pytest.mark.parametrize("poison", [False, True])
def test_a_free_that_destroys_nothing(
    poison: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trial = Trial(make_runner("torch", "debug", poison))
    blocks = [str(block_id) for block_id in trial.driver.blocks[0]]
    monkeypatch.setattr(KVCache, "destroy", lambda *_: None)
    trial.driver.step([], freed=[0])
    assert breaches(caplog) == [(Breach.NOT_DESTROYED, block_id) for block_id in blocks]


def test_a_write_in_the_middle_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token is told that was computed beside it."""
    trial = Trial(make_runner("torch", "canary"))
    forward = Transformer.forward

    def forward_and_overrun(*arguments: Any) -> Tensor:
        trial.stamp(trial.block(2, 0))[0] = 0
        return forward(*arguments)

    monkeypatch.setattr(Transformer, "forward", forward_and_overrun)
    assert trial.failing() == {2}


def test_a_line_of_the_log_names_places_alone() -> None:
    stamp = Stamp(12, 3, 0, 9)
    line = str(Violation(Breach.OTHER_STAMP, 3, 0, 9, stamp, Stamp.of((0, 1, 2, 3, 4))))
    assert line == (
        "isolation check failed: block 9 of slot 3 is not stamped as the slot's; "
        "stamp expected: slot 3 generation 12 index 0 block 9; found: none"
    )
