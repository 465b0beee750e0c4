"""The start's self-test: silent on a runner that keeps the promise, whatever its size, and not on one with a fault."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from model.batch import NOT_FINITE, Batch, Chunk, ChunkResult, Runner, RunnerInfo, StepOutput
from model.errors import ModelError
from model.self_test import AMONG_OTHERS, IN_PIECES, SelfTest, warm_up
from tests.fakes import FakeRunner
from tests.model.random_checkpoint import QWEN3_MOE, checkpoint_that_breaks_on, random_checkpoint
from tests.model.runners import ON_EVERY_RUNNER, make_runner

PATH = Path("some-model.gguf")
LEAST = 2.0**-40  # that a log-probability is out by


class Wrapper:
    """A runner whose log-probabilities are out by a little whenever its fault shows."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    @property
    def info(self) -> RunnerInfo:
        return self.runner.info

    def run(self, batch: Batch) -> StepOutput:
        results = self.runner.run(batch).results
        rows = zip(batch.chunks, results, self.errors(batch), strict=True)
        return StepOutput(tuple(self.result(chunk, result, error) for chunk, result, error in rows))

    def errors(self, batch: Batch) -> Sequence[float]:
        return [0] * len(batch.chunks)

    def result(self, chunk: Chunk, result: ChunkResult, error: float) -> ChunkResult:
        return result if result.logprob is None else replace(result, logprob=result.logprob + error * LEAST)


class SeesCompany(Wrapper):
    def errors(self, batch: Batch) -> Sequence[float]:
        return [len(batch.chunks)] * len(batch.chunks)


class SeesItsSlot(Wrapper):
    def errors(self, batch: Batch) -> Sequence[float]:
        return [chunk.slot for chunk in batch.chunks]


class SeesItsPlace(Wrapper):
    def errors(self, batch: Batch) -> Sequence[float]:
        return range(len(batch.chunks))


class SeesItsChunk(Wrapper):
    def errors(self, batch: Batch) -> Sequence[float]:
        return [chunk.num_tokens for chunk in batch.chunks]


@dataclass
class SeesWhatOthersLeft(Wrapper):
    """In the first blocks of a slot: how many have had them before."""

    runner: Runner
    num_owners: dict[int, int] = field(default_factory=dict)
    leaks: dict[int, int] = field(default_factory=dict)  # by slot

    def errors(self, batch: Batch) -> Sequence[float]:
        for opened in batch.opened:
            self.leaks[opened.slot] = 0
        for grown in batch.grown:
            for block in grown.block_ids:
                self.leaks[grown.slot] += self.num_owners.get(block, 0)
                self.num_owners[block] = self.num_owners.get(block, 0) + 1
        return [self.leaks[chunk.slot] for chunk in batch.chunks]


@pytest.mark.parametrize("fault", [SeesCompany, SeesItsSlot, SeesItsPlace, SeesItsChunk, SeesWhatOthersLeft])
@pytest.mark.parametrize("block_size", [4, 32])
def test_a_planted_fault_is_seen_and_told(fault: type[Wrapper], block_size: int) -> None:
    runner = FakeRunner(block_size=block_size)
    found = warm_up(PATH, fault(runner), 8, 64)
    assert found.is_batch_invariant is False
    assert found.remark is not None
    assert found.remark.endswith((AMONG_OTHERS, IN_PIECES))
    assert "of a greedy answer: " in found.remark or "of a seeded answer: " in found.remark
    assert (runner.slots, runner.owners) == ({}, {})


@pytest.mark.parametrize("fault", [SeesItsChunk, SeesWhatOthersLeft])
def test_a_server_of_one_request_is_tested_too(fault: type[Wrapper]) -> None:
    assert warm_up(PATH, fault(FakeRunner(block_size=16, num_blocks=2)), 1, 64).is_batch_invariant is False


@pytest.mark.parametrize("block_size", [1, 2, 4, 32])
@pytest.mark.parametrize("num_blocks", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("max_model_len", [1, 2, 3, 7, 128])
def test_it_fits_into_every_runner(block_size: int, num_blocks: int, max_model_len: int) -> None:
    for max_num_seqs, max_num_batched_tokens in ((1, 1), (1, 2), (2, 2), (2, 5), (3, 64), (64, 64), (64, 256)):
        runner = FakeRunner(num_blocks=num_blocks, block_size=block_size, max_model_len=max_model_len)
        found = warm_up(PATH, runner, max_num_seqs, max_num_batched_tokens)
        assert (found.is_batch_invariant, found.remark) == (True, None)
        assert (runner.slots, runner.owners) == ({}, {})
        assert all(set(block) == {None} for block in runner.memory)
        for batch in runner.batches:
            assert all(opened.slot < max_num_seqs for opened in batch.opened)
            assert len(batch.chunks) <= max_num_seqs
            assert sum(chunk.num_tokens for chunk in batch.chunks) <= max_num_batched_tokens


@pytest.mark.parametrize("max_model_len", [100, 1000])
def test_it_runs_the_largest_steps(max_model_len: int) -> None:
    runner = FakeRunner(num_blocks=1000, max_model_len=max_model_len)
    found = warm_up(PATH, runner, 32, 256)
    assert max(chunk.num_tokens for batch in runner.batches for chunk in batch.chunks) == min(256, max_model_len - 1)
    assert any(len(batch.chunks) == 32 and not any(c.token_ids for c in batch.chunks) for batch in runner.batches)
    assert found.num_steps == len(runner.batches) - 1, "the last only frees"
    assert found.longest_step_s > 0


def test_where_there_is_no_time_it_says_what_was_not_tested() -> None:
    runner = FakeRunner()
    found = warm_up(PATH, runner, 8, 64, budget_s=0.0)
    assert found.is_batch_invariant is None
    assert found.remark == f"not tested, for lack of time: an answer {AMONG_OTHERS}, {IN_PIECES}"
    assert (runner.slots, runner.owners) == ({}, {})


class FailsAt(FakeRunner):
    """At a step, or not at all: it counts them."""

    def __init__(self, number: int, error: Exception | None) -> None:
        super().__init__()
        self.number, self.error = number, error

    def run(self, batch: Batch) -> StepOutput:
        output = super().run(batch)
        if len(self.batches) - 1 != self.number:
            return output
        if self.error is not None:
            raise self.error
        return StepOutput((ChunkResult(error=NOT_FINITE), *output.results[1:]))


@pytest.mark.parametrize("number", range(14))
@pytest.mark.parametrize("error", [None, RuntimeError("out of threads"), MemoryError("full")], ids=str)
def test_a_step_that_fails_ends_the_start_and_leaves_nothing(number: int, error: Exception | None) -> None:
    runner = FailsAt(number, error)
    with pytest.raises(ModelError, match=f"some-model.gguf: the warm-up failed.*: {error or NOT_FINITE}"):
        warm_up(PATH, runner, 8, 64)
    assert (runner.slots, runner.owners) == ({}, {})


@ON_EVERY_RUNNER
def test_a_real_runner_keeps_what_its_backend_promises(backend: str) -> None:
    """native: every bit, on the instruction set that is here; torch: only that nothing fails."""
    runner = make_runner(backend, random_checkpoint(QWEN3_MOE, 3))
    found = warm_up(PATH, runner, 16, 256, budget_s=60.0)
    assert isinstance(found, SelfTest)
    assert backend != "native" or (found.is_batch_invariant, found.remark) == (True, None)


@ON_EVERY_RUNNER
def test_a_model_whose_numbers_overflow_is_not_served(backend: str) -> None:
    runner = make_runner(backend, checkpoint_that_breaks_on(13))  # the first token of the greedy prompt
    with pytest.raises(ModelError, match=NOT_FINITE):
        warm_up(PATH, runner, 16, 256)
