"""Timed traces, bit-equal to running alone; and planted faults, to show that they would be seen."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from model.batch import Batch, FreedSlot, OpenedSlot, StepOutput
from model.native.runner import NativeRunner
from tests.model.native.library_here import needs_library
from tests.reliability.trace_plan import Trace, draw
from tests.reliability.traces import Tally, failure_of, run_traces, smallest

pytestmark = needs_library


def test_forty_traces() -> None:
    assert not run_traces(0, 40).never_seen


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_thousand_traces() -> None:
    """SLOTWISE_TRACES: how many; SLOTWISE_TRACES_SEED: the seed of the first."""
    tally = run_traces(int(os.environ.get("SLOTWISE_TRACES_SEED", 0)), int(os.environ.get("SLOTWISE_TRACES", 1000)))
    sys.stderr.write(f"\n{tally}\n")
    assert not tally.never_seen


def test_a_trace_is_a_function_of_its_seed() -> None:
    tallies = [Tally(), Tally()]
    for tally in tallies:
        assert failure_of(draw(2), tally=tally) == ""
    assert tallies[0] == tallies[1]
    assert draw(2) == draw(2) != draw(3)


def test_a_phase_that_was_never_hit_is_named() -> None:
    assert {"preemptions", "set back", "ended"} <= set(Tally().never_seen)


def by_hand(seeds: Iterable[int]) -> Iterator[Trace]:
    return (trace for trace in map(draw, seeds) if not trace.has_thread)


class SwapsBlocks(NativeRunner):
    """Once, what the first blocks of two slots hold changes places."""

    def run(self, batch: Batch) -> StepOutput:
        first_blocks = vars(self).setdefault("first_blocks", {})
        for freed in batch.freed:
            first_blocks.pop(freed.slot, None)
        if len(first_blocks) == 2:
            a, b = (self.contents(block_id) for block_id in first_blocks.values())
            a[:], b[:] = b.copy(), a.copy()
            first_blocks |= dict.fromkeys(("no", "more", "ever"), 0)
        for grown in batch.grown:
            first_blocks.setdefault(grown.slot, grown.block_ids[0])
        return super().run(batch)


class SwapsRows(NativeRunner):
    """Once, two requests have each other's token."""

    def run(self, batch: Batch) -> StepOutput:
        results = list(super().run(batch).results)
        rows = [row for row, result in enumerate(results) if result.token_id is not None]
        if len(rows) > 1 and "is_done" not in vars(self):
            vars(self)["is_done"] = True
            results[rows[0]], results[rows[1]] = results[rows[1]], results[rows[0]]
        return StepOutput(tuple(results))


class CountsOutputAsPrompt(NativeRunner):
    """Of a request that was set back: seen only where there is a penalty on its output."""

    def run(self, batch: Batch) -> StepOutput:
        return super().run(replace(batch, opened=tuple(map(self._reopened, batch.opened))))

    def _reopened(self, opened: OpenedSlot) -> OpenedSlot:
        seen = vars(self).setdefault("seen", set())
        key = (opened.sampling.seed, opened.num_prompt_tokens)
        if key in seen:
            return replace(opened, num_prompt_tokens=2**20)
        seen.add(key)
        return opened


class KeepsWhatWasThere(NativeRunner):
    """A freed block has its contents back after the step that destroyed them."""

    def run(self, batch: Batch) -> StepOutput:
        kept = {block_id: self.contents(block_id).copy() for freed in batch.freed for block_id in freed.block_ids[:1]}
        output = super().run(batch)
        for block_id, contents in kept.items():
            self.contents(block_id)[:] = contents
        return output


class ForgetsToFree(NativeRunner):
    """The last block of a slot stays its own."""

    def run(self, batch: Batch) -> StepOutput:
        freed = tuple(FreedSlot(one.slot, one.block_ids[:-1]) for one in batch.freed)
        return super().run(replace(batch, freed=freed))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (SwapsBlocks, "and alone"),
        (SwapsRows, "and alone"),
        (CountsOutputAsPrompt, "and alone"),
        (KeepsWhatWasThere, "is not destroyed"),
        (ForgetsToFree, "would keep block"),
    ],
)
def test_a_planted_fault_is_seen(fault: type[NativeRunner], words: str) -> None:
    assert any(words in failure_of(trace, fault) for trace in by_hand(range(40)))


def test_the_least_that_shows_a_fault_is_two_requests() -> None:
    """For a swap takes two."""
    trace = next(trace for trace in by_hand(range(40)) if failure_of(trace, SwapsRows))
    assert len(smallest(trace, SwapsRows).arrivals) == 2 < len(trace.arrivals)
    assert f"seed {trace.seed}:" in str(smallest(trace, SwapsRows))
