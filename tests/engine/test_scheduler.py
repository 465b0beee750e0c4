"""The scheduler against FakeRunner, one step at a time: every answer can be computed by hand."""

from collections import defaultdict
from collections.abc import Callable

import pytest

from app.engine.limits import Limits
from app.engine.request import FinishReason, Request, RequestParams, Submission, TokenEvent
from app.engine.scheduler import MAX_FAULTS, Scheduler
from model.batch import Batch, ChunkResult, StepOutput
from tests.fakes import BYTES, FakeRunner


def make_request(name: str, prompt: list[int], max_tokens: int = 4) -> Request:
    return Request(Submission(name, tuple(prompt), RequestParams(max_tokens)), 0, BYTES, arrival_time=0.0)


class Bench:
    """A scheduler and a runner, stepped by hand."""

    def __init__(
        self, runner: FakeRunner | None = None, max_num_seqs: int = 4, max_num_batched_tokens: int = 8
    ) -> None:
        self.runner = runner or FakeRunner()
        self.scheduler = Scheduler(self.runner.info, Limits(max_num_seqs, max_num_batched_tokens))

    def add(self, name: str, prompt: list[int], max_tokens: int = 4) -> Request:
        request = make_request(name, prompt, max_tokens)
        self.scheduler.add(request)
        return request

    def step(self) -> Batch:
        batch = self.scheduler.schedule()
        self.scheduler.update(batch, self.runner.run(batch))
        self.scheduler.slots.check()
        return batch

    def finish(self, max_steps: int = 200) -> None:
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                return
            self.step()
        raise AssertionError("no end in sight")

    def finish_with_faults(self, max_steps: int = 400) -> dict[Request, list[TokenEvent]]:
        """As the engine does it: what the runner raises fails the step. The events of each request."""
        events = defaultdict(list)
        for _ in range(max_steps):
            batch = self.scheduler.schedule()
            try:
                emissions = self.scheduler.update(batch, self.runner.run(batch))
            except RuntimeError:
                emissions = self.scheduler.fail(batch, "fault")
            for request, event in emissions:
                events[request].append(event)
            self.scheduler.slots.check()
            if not self.scheduler.has_work:
                return events
        raise AssertionError("no end in sight")


def fail_for(token_id: int) -> Callable[[Batch], None]:
    """A step that reads it fails."""

    def fail(batch: Batch) -> None:
        if any(token_id in chunk.token_ids for chunk in batch.chunks):
            raise RuntimeError

    return fail


def output(request: Request) -> list[int]:
    return request.token_ids[request.num_prompt_tokens :]


def chunk_sizes(batch: Batch) -> list[int]:
    return [chunk.num_tokens for chunk in batch.chunks]


def test_a_request_is_prefilled_then_decoded_then_freed() -> None:
    bench = Bench()
    request = bench.add("a", [1, 2], max_tokens=3)
    first, second, third, last = (bench.step() for _ in range(4))
    assert output(request) == [3, 6, 12]
    assert request.finish_reason is FinishReason.LENGTH
    assert first.chunks[0].token_ids == (1, 2)
    assert first.opened[0].num_prompt_tokens == 2
    assert second.chunks[0].token_ids == third.chunks[0].token_ids == ()
    assert last.freed[0].slot == first.opened[0].slot
    assert not last.chunks
    assert not bench.scheduler.has_work
    assert bench.runner.owners == {}


def test_decode_comes_first_and_prefill_shares_what_is_left_of_the_budget() -> None:
    bench = Bench(max_num_batched_tokens=8)
    bench.add("a", [1], max_tokens=9)
    bench.add("b", [2], max_tokens=9)
    bench.step()
    bench.add("long", [3] * 20)
    assert chunk_sizes(bench.step()) == [1, 1, 6]
    assert chunk_sizes(bench.step()) == [1, 1, 6]
    assert chunk_sizes(bench.step()) == [1, 1, 6]
    assert chunk_sizes(bench.step()) == [1, 1, 2]
    assert chunk_sizes(bench.step()) == [1, 1, 1]


def test_prompts_that_come_together_share_one_budget() -> None:
    bench = Bench(max_num_batched_tokens=8)
    bench.add("a", [1] * 5)
    bench.add("b", [2] * 5)
    bench.add("c", [3] * 5)
    assert chunk_sizes(bench.step()) == [5, 3]
    assert chunk_sizes(bench.step()) == [1, 2, 5]


def test_a_chunk_that_is_not_the_last_asks_for_no_token() -> None:
    bench = Bench(max_num_batched_tokens=4)
    request = bench.add("a", [1] * 10, max_tokens=2)
    assert [bench.step().chunks[0].samples for _ in range(3)] == [False, False, True]
    assert output(request) == [10]


def test_a_long_prompt_does_not_keep_a_younger_one_from_decoding() -> None:
    bench = Bench(max_num_seqs=2, max_num_batched_tokens=4)
    young_start = bench.add("long", [1] * 40, max_tokens=1)
    bench.step()
    young = bench.add("short", [5], max_tokens=3)
    bench.finish()
    assert output(young) == [5, 10, 20]
    assert output(young_start) == [40]


def test_first_come_first_served_and_no_more_than_the_slots() -> None:
    bench = Bench(max_num_seqs=2)
    requests = [bench.add(str(number), [number], max_tokens=2) for number in range(1, 5)]
    assert len(bench.step().opened) == 2
    assert [request.slot is not None for request in requests] == [True, True, False, False]
    bench.step()
    assert len(bench.step().opened) == 2
    bench.finish()
    assert [output(request) for request in requests] == [[n, 2 * n] for n in range(1, 5)]


def test_a_slot_grows_block_by_block() -> None:
    bench = Bench(FakeRunner(block_size=4))
    bench.add("a", [1, 1, 1], max_tokens=8)
    grown = [sum(len(one.block_ids) for one in bench.step().grown) for _ in range(8)]
    assert grown == [1, 0, 1, 0, 0, 0, 1, 0]


def test_a_new_request_waits_for_blocks() -> None:
    bench = Bench(FakeRunner(num_blocks=4, block_size=4))
    bench.add("a", [1] * 7, max_tokens=3)
    waiting = bench.add("b", [2] * 7, max_tokens=3)
    bench.step()
    assert waiting.slot is None
    bench.finish()
    assert bench.scheduler.num_preemptions == 0
    assert output(waiting) == [14, 28, 56]


def test_when_blocks_run_out_the_youngest_is_set_back_and_its_output_is_unchanged() -> None:
    prompts = [[1, 2, 3], [4, 5], [6]]
    alone = []
    for prompt in prompts:
        bench = Bench(FakeRunner(num_blocks=6, block_size=4))
        alone.append(bench.add("alone", prompt, max_tokens=20))
        bench.finish()
    bench = Bench(FakeRunner(num_blocks=6, block_size=4))
    together = [bench.add(str(prompt), prompt, max_tokens=20) for prompt in prompts]
    bench.finish()
    assert bench.scheduler.num_preemptions > 0
    assert together[0].num_preemptions == 0, "the oldest is never set back"
    assert [output(request) for request in together] == [output(request) for request in alone]


def test_those_set_back_come_before_those_that_never_ran_in_the_order_they_came() -> None:
    bench = Bench(FakeRunner(num_blocks=6, block_size=4), max_num_seqs=3)
    requests = [bench.add(str(number), [number], max_tokens=20) for number in range(1, 6)]
    while len(bench.scheduler.running) > 1 or bench.scheduler.num_preemptions < 2:
        bench.step()
    assert list(bench.scheduler.waiting) == requests[1:]


def test_a_request_that_was_set_back_is_recomputed_from_prompt_and_output() -> None:
    bench = Bench(FakeRunner(num_blocks=4, block_size=4))
    old = bench.add("old", [1] * 4, max_tokens=12)
    young = bench.add("young", [2, 2], max_tokens=10)
    while not young.num_preemptions:
        bench.step()
    assert young.slot is None
    known = list(young.token_ids)
    while young.slot is None:
        batch = bench.step()
    again = next(chunk for chunk in batch.chunks if chunk.token_ids)
    assert again.token_ids == tuple(known)
    assert batch.opened[0].num_prompt_tokens == 2, "output counts as output for the penalties, also when fed again"
    bench.finish()
    assert (old.num_output_tokens, young.num_output_tokens) == (12, 10)


def test_a_recomputed_request_whose_last_chunk_is_one_token_still_names_it() -> None:
    """The runner knows the last token only if it sampled it in this very slot."""
    bench = Bench(FakeRunner(num_blocks=5, block_size=4), max_num_seqs=2, max_num_batched_tokens=3)
    bench.add("old", [1] * 3, max_tokens=15)
    young = bench.add("young", [2], max_tokens=12)
    bench.finish()
    assert young.num_preemptions > 0
    assert output(young) == [2 * 2**power % 256 for power in range(12)]


def test_a_row_that_fails_ends_alone() -> None:
    bench = Bench()
    good, bad = bench.add("good", [1]), bench.add("bad", [2])
    batch = bench.scheduler.schedule()
    output_of_step = bench.runner.run(batch)
    failed = ChunkResult(error="logits are not finite")
    emissions = bench.scheduler.update(batch, StepOutput((output_of_step.results[0], failed)))
    assert [emission.event.error for emission in emissions] == [None, "logits are not finite"]
    assert (good.finish_reason, bad.finish_reason) == (None, FinishReason.ERROR)
    bench.finish()
    assert output(good) == [1, 2, 4, 8]


def test_of_a_failed_step_each_is_tried_alone_and_who_is_not_at_fault_never_knows() -> None:
    bench = Bench(runner=FakeRunner(before_step=fail_for(7)), max_num_seqs=3, max_num_batched_tokens=16)
    first, ended = bench.add("first", [1]), bench.add("ended", [9], max_tokens=1)
    bench.step()
    culprit, long = bench.add("culprit", [7]), bench.add("long", [3] * 24)
    queued = bench.add("queued", [5])
    events = bench.finish_with_faults()
    assert [event.error for event in events[culprit]] == ["fault"]
    assert ended.finish_reason is FinishReason.LENGTH
    for request, answer in ((first, [1, 2, 4, 8]), (queued, [5, 10, 20, 40]), (long, [72, 144, 32, 64])):
        assert output(request) == answer
        assert [event.token_id for event in events[request]] == answer[-len(events[request]) :]
        assert request.num_preemptions == 0, "that is for want of blocks"
    assert bench.runner.owners == {}


def test_a_fault_that_only_company_brings_out_is_borne_for_a_while() -> None:
    def fail_for_two(batch: Batch) -> None:
        if len(batch.chunks) > 1:
            raise RuntimeError

    bench = Bench(runner=FakeRunner(before_step=fail_for_two))
    short, long = bench.add("short", [1], max_tokens=4), bench.add("long", [2], max_tokens=30)
    events = bench.finish_with_faults()
    assert output(short) == [1, 2, 4, 8], "a token at each trial"
    assert output(long)[:4] == [2, 4, 8, 16]
    assert len(events[short]) == 4
    assert long.finish_reason is FinishReason.LENGTH


def test_who_fails_in_company_again_and_again_ends() -> None:
    def fail_for_two(batch: Batch) -> None:
        if len(batch.chunks) > 1:
            raise RuntimeError

    bench = Bench(runner=FakeRunner(before_step=fail_for_two))
    both = [bench.add("a", [1], max_tokens=30), bench.add("b", [2], max_tokens=30)]
    bench.finish_with_faults()
    assert {request.finish_reason for request in both} == {FinishReason.ERROR}
    assert {request.num_faults for request in both} == {MAX_FAULTS + 1}


def test_a_suspect_that_is_cancelled_is_not_waited_for() -> None:
    bench = Bench(runner=FakeRunner(before_step=fail_for(7)))
    suspects = [bench.add("a", [1]), bench.add("b", [7]), bench.add("c", [3])]
    bench.scheduler.fail(bench.scheduler.schedule(), "fault")
    bench.scheduler.end(suspects[0], FinishReason.ABORT)
    bench.scheduler.end(suspects[1], FinishReason.ABORT)
    bench.finish()
    assert output(suspects[2]) == [3, 6, 12, 24]


def test_a_failed_step_tells_the_runner_again_what_to_free() -> None:
    bench = Bench(max_num_seqs=2)
    bench.add("ended", [9], max_tokens=1)
    bench.step()
    requests = [bench.add("a", [1]), bench.add("b", [2])]
    failed = bench.scheduler.schedule()  # … and run() raises before it did anything
    assert bench.scheduler.fail(failed, "out of memory") == []
    batch = bench.step()
    assert len(batch.chunks) == 1
    assert {freed.slot for freed in batch.freed} == {freed.slot for freed in failed.freed} | {
        opened.slot for opened in failed.opened
    }
    bench.finish()
    assert [output(request) for request in requests] == [[1, 2, 4, 8], [2, 4, 8, 16]]
    assert bench.runner.owners == {}


def test_blocks_that_a_failed_step_was_to_free_are_freed_by_the_next() -> None:
    """Also those that none of its own requests got."""
    bench = Bench(FakeRunner(block_size=4))
    bench.add("long", [1] * 8, max_tokens=1)
    bench.step()
    bench.add("short", [2], max_tokens=1)
    failed = bench.scheduler.schedule()  # … and run() raises before it did anything
    assert [len(freed.block_ids) for freed in failed.freed] == [2]
    bench.scheduler.fail(failed, "out of memory")
    bench.finish()
    assert bench.runner.owners == {}


@pytest.mark.parametrize("num_steps", range(5))
def test_a_request_is_ended_in_any_phase_and_leaves_nothing(num_steps: int) -> None:
    bench = Bench(max_num_seqs=2, max_num_batched_tokens=4)
    neighbour = bench.add("neighbour", [1], max_tokens=8)
    victim = bench.add("victim", [2] * 8, max_tokens=8)
    for _ in range(num_steps):
        bench.step()
    emission = bench.scheduler.end(victim, FinishReason.ABORT)
    assert emission.event.finish_reason is FinishReason.ABORT
    bench.finish()
    assert bench.scheduler.slots.num_used_blocks == 0
    assert bench.runner.owners == {}
    assert output(neighbour) == [2**power % 256 for power in range(8)]
