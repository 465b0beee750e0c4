"""The scheduler against FakeRunner, one step at a time: prompts that are only read, priorities, deadlines, and choices
that must be waited for."""

import pytest

from app.engine.limits import Limits
from app.engine.request import (
    DEADLINE,
    PRIORITY_S,
    Dry,
    FinishReason,
    Request,
    RequestParams,
    Submission,
    Timings,
    TokenEvent,
)
from app.engine.scheduler import Scheduler
from model.batch import NO_CHOICE, Batch, SamplingParams
from tests.fakes import BYTES, FakeRunner, allows, bits


class Bench:
    """A scheduler and a runner, stepped by hand, at a time that the test says; its masks are the test's to give."""

    def __init__(self, runner: FakeRunner | None = None, max_num_seqs: int = 4, max_num_batched_tokens: int = 8):
        self.now = 0.0
        self.asked: list[tuple[Request, int | None]] = []
        self.runner = runner or FakeRunner()
        limits = Limits(max_num_seqs, max_num_batched_tokens)
        ask_mask = lambda request, token_id: self.asked.append((request, token_id))  # noqa: E731
        self.scheduler = Scheduler(self.runner.info, limits, ask_mask, lambda: self.now)
        self.events: dict[Request, list[TokenEvent]] = {}

    def add(self, prompt: list[int], params: RequestParams) -> Request:
        request = Request(Submission(str(prompt), tuple(prompt), params), 0, BYTES, arrival_time=self.now)
        self.events[request] = []
        self.scheduler.add(request)
        return request

    def step(self) -> Batch:
        batch = self.scheduler.schedule()
        self.hear(self.scheduler.update(batch, self.runner.run(batch)))
        self.scheduler.slots.check()
        return batch

    def hear(self, emissions) -> None:
        for request, event in emissions:
            self.events[request].append(event)

    def end_overdue(self) -> None:
        self.hear(self.scheduler.end_overdue())

    def finish(self, max_steps: int = 200) -> None:
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                assert self.runner.owners == {}
                return
            self.step()
        raise AssertionError("no end in sight")


def output(request: Request) -> list[int]:
    return request.token_ids[request.num_prompt_tokens :]


class Unused:
    """A constraint that nobody asks: its masks come from the test."""

    def allowed(self) -> bytes:
        raise AssertionError

    def accept(self, token_id: int) -> None:
        raise AssertionError


# ── prompts ──


def test_without_tokens_to_generate_a_request_ends_when_its_prompt_is_read() -> None:
    bench = Bench(max_num_batched_tokens=4)
    request = bench.add([1] * 10, RequestParams(0))
    batches = [bench.step() for _ in range(3)]
    assert [batch.chunks[0].samples for batch in batches] == [False] * 3
    assert [(event.token_id, event.finish_reason) for event in bench.events[request]] == [(None, FinishReason.LENGTH)]
    bench.finish()


def test_a_prompt_as_large_as_the_pool_is_read() -> None:
    bench = Bench(FakeRunner(num_blocks=3, block_size=4))
    request = bench.add([1] * 12, RequestParams(0))
    bench.finish()
    assert request.finish_reason is FinishReason.LENGTH


def prompt_logprobs(events: list[TokenEvent]) -> list[float]:
    return [target.logprob for event in events for target in event.prompt_logprobs]


@pytest.mark.parametrize("max_num_batched_tokens", [4, 5, 9, 20])
@pytest.mark.parametrize("max_tokens", [0, 3])
def test_log_probabilities_of_the_prompt_come_once_each_before_the_first_token(
    max_num_batched_tokens: int, max_tokens: int
) -> None:
    bench = Bench(max_num_batched_tokens=max_num_batched_tokens)
    request = bench.add([7] * 10, RequestParams(max_tokens, wants_prompt_logprobs=True))
    bench.finish()
    events = bench.events[request]
    assert prompt_logprobs(events) == [-0.5 * position for position in range(1, 10)]
    alone = [event for event in events if event.prompt_logprobs]
    assert events[: len(alone)] == alone
    assert all((event.token_id, event.finish_reason) == (None, None) for event in alone)
    assert [event.token_id for event in events[len(alone) :]] == (output(request) if max_tokens else [None])


def test_as_many_most_likely_tokens_come_with_them_as_were_asked_for() -> None:
    bench = Bench()
    params = RequestParams(0, SamplingParams(num_prompt_logprobs=2), wants_prompt_logprobs=True)
    request = bench.add([7, 8], params)
    bench.finish()
    assert bench.events[request][0].prompt_logprobs[0].top_logprobs == ((8, -0.5), (9, -1.5))


@pytest.mark.parametrize("num_before", range(1, 8))
def test_set_back_at_any_time_each_log_probability_still_comes_once(num_before: int) -> None:
    bench = Bench(max_num_batched_tokens=4)
    request = bench.add([7] * 10, RequestParams(3, wants_prompt_logprobs=True, pools=True))
    for _ in range(num_before):
        bench.step()
    if request.slot is not None:
        bench.scheduler._set_back(request)
        bench.scheduler._limits = Limits(3, 3)  # read again in other chunks
    bench.finish()
    events = bench.events[request]
    assert prompt_logprobs(events) == [-0.5 * position for position in range(1, 10)]
    assert output(request) == [70, 140, 24]
    assert events[-1].pooled == (7.0,)


def test_the_pooled_state_comes_with_the_last_event() -> None:
    bench = Bench(max_num_batched_tokens=4)
    only_read = bench.add([1, 2, 3, 4, 5], RequestParams(0, pools=True))
    answered = bench.add([3, 5], RequestParams(2, pools=True))
    bench.finish()
    assert [event.pooled for event in bench.events[only_read]] == [(3.0,)]
    assert [event.pooled for event in bench.events[answered]] == [None, (4.0,)]


def test_the_last_event_has_timings_and_the_most_blocks_it_had() -> None:
    bench = Bench(FakeRunner(block_size=4, num_blocks=4), max_num_seqs=1)
    first, second = bench.add([1] * 7, RequestParams(3)), bench.add([2], RequestParams(1))
    for now in (1.0, 2.0, 3.0, 4.0):
        bench.now = now
        bench.step()
    assert [event.timings for event in bench.events[first]] == [None, None, Timings(1.0, 0.0, 2.0, 3, 96)]
    assert [event.timings for event in bench.events[second]] == [Timings(4.0, 0.0, 0.0, 1, 32)]


def test_what_has_been_pooled_is_not_pooled_again() -> None:
    bench = Bench()
    request = bench.add([3, 5], RequestParams(3, pools=True))
    bench.step()
    bench.scheduler._set_back(request)
    assert not bench.step().opened[0].pools


def test_the_most_blocks_are_those_of_an_earlier_slot_where_later_ones_had_less() -> None:
    bench = Bench(FakeRunner(block_size=4), max_num_batched_tokens=4)
    request = bench.add([1] * 11, RequestParams(3))
    for _ in range(3):
        bench.step()
    for _ in range(2):
        bench.scheduler._set_back(request)
        bench.step()
    bench.hear([bench.scheduler.end(request, FinishReason.ABORT)])
    timings = bench.events[request][-1].timings
    assert timings is not None
    assert timings.num_blocks == 3


# ── turns ──


def test_the_lower_priority_goes_first_and_among_equals_who_came_first() -> None:
    bench = Bench(max_num_seqs=1)
    requests = {
        name: bench.add([1], RequestParams(1, priority=priority))
        for name, priority in (("late", 1), ("a", 0), ("b", 0), ("urgent", -2))
    }
    assert bench.scheduler.waiting == [requests[name] for name in ("urgent", "a", "b", "late")]


def test_whoever_waits_long_enough_goes_before_whoever_is_more_urgent() -> None:
    bench = Bench(max_num_seqs=1)
    patient = bench.add([1], RequestParams(1, priority=3))
    bench.now = 2.9 * PRIORITY_S
    assert bench.scheduler.waiting == [bench.add([2], RequestParams(1)), patient]
    bench.now = 3.1 * PRIORITY_S
    bench.add([3], RequestParams(1))
    assert bench.scheduler.waiting[1] is patient


def test_under_a_flood_of_urgent_requests_the_others_have_their_turn() -> None:
    bench = Bench(max_num_seqs=1)
    patient = bench.add([1], RequestParams(1, priority=2))
    num_before = 0
    while patient.finish_reason is None:
        bench.add([2], RequestParams(1))
        bench.now += PRIORITY_S / 5
        bench.step()
        num_before += 1
    assert num_before <= 2 * 5 + 1


def test_when_blocks_run_out_the_least_urgent_is_set_back_not_the_youngest() -> None:
    bench = Bench(FakeRunner(num_blocks=6, block_size=4))
    low = bench.add([1], RequestParams(20, priority=5))
    bench.step()
    urgent = [bench.add([n], RequestParams(20 if n == 2 else 4, priority=-5)) for n in (2, 3)]
    bench.finish()
    assert (low.num_preemptions > 0, [request.num_preemptions for request in urgent]) == (True, [0, 0])
    assert output(low) == [2**power % 256 for power in range(20)]


# ── deadlines ──


def test_a_deadline_ends_a_running_and_a_queued_request_with_what_there_is() -> None:
    bench = Bench(max_num_seqs=1)
    runs, waits = bench.add([1], RequestParams(9, timeout_s=5.0)), bench.add([2], RequestParams(9, timeout_s=3.0))
    endless = bench.add([3], RequestParams(2))
    bench.step()
    bench.now = 2.9
    bench.end_overdue()
    assert (runs.finish_reason, waits.finish_reason) == (None, None)
    bench.now = 3.0
    bench.end_overdue()
    assert (runs.finish_reason, waits.finish_reason) == (None, FinishReason.LENGTH)
    bench.now = 6.0
    bench.end_overdue()
    for request, tokens in ((runs, [1, None]), (waits, [None])):
        assert [event.token_id for event in bench.events[request]] == tokens
        last = bench.events[request][-1]
        assert (last.finish_reason, last.stop_reason) == (FinishReason.LENGTH, DEADLINE)
    bench.finish()
    assert output(endless) == [3, 6]


def test_the_next_deadline_is_never_later_than_any_open_requests() -> None:
    bench = Bench()
    assert bench.scheduler.next_deadline == float("inf")
    for timeout_s in (5.0, 3.0, None, 9.0):
        bench.add([1], RequestParams(1, timeout_s=timeout_s))
    for now, following in ((3.0, 5.0), (5.0, 9.0), (9.0, float("inf"))):
        assert bench.scheduler.next_deadline == now
        bench.now = now
        bench.end_overdue()
        assert bench.scheduler.next_deadline == following


# ── choices ──


def test_a_row_without_its_mask_sits_out_and_keeps_its_slot_while_the_others_go_on() -> None:
    bench = Bench()
    bound, free = bench.add([1, 2], RequestParams(2, constraint=Unused())), bench.add([5], RequestParams(9))
    assert [chunk.num_tokens for chunk in bench.step().chunks] == [1, 1], "all of its prompt but what samples"
    assert bench.asked == [(bound, None)]
    assert len(bench.step().chunks) == 1
    bench.scheduler.choices.take(bound, bits(100))
    bench.step()
    assert output(bound) == [100]
    assert bench.asked == [(bound, None), (bound, 100)]
    assert bound.slot is not None
    assert len(bench.step().chunks) == 1
    bench.scheduler.choices.take(bound, bits(7))
    bench.step()
    assert output(bound) == [100, 7]
    assert len(bench.asked) == 2, "of a request that has ended no mask is asked for"
    bench.finish()
    assert output(free) == [5 * 2**power % 256 for power in range(9)]


def test_a_prompt_of_one_token_waits_in_its_slot_without_the_runner_knowing() -> None:
    bench = Bench()
    bound = bench.add([1], RequestParams(1, constraint=Unused()))
    assert bench.step() == Batch()
    assert bound.slot is not None
    bench.scheduler.choices.take(bound, bits(100))
    assert len(bench.step().opened) == 1
    assert output(bound) == [100]
    bench.finish()


def test_one_that_ends_before_the_runner_knew_it_leaves_nothing() -> None:
    bench = Bench(max_num_seqs=1)
    bench.step()
    bench.hear([bench.scheduler.end(bench.add([1], RequestParams(1, constraint=Unused())), FinishReason.ABORT)])
    bound = bench.add([1], RequestParams(1, constraint=Unused()))
    bench.step()
    bench.hear([bench.scheduler.end(bound, FinishReason.ABORT)])
    free = bench.add([2], RequestParams(1))
    bench.finish()
    assert output(free) == [2]


def test_a_constraint_does_not_hold_up_a_prompt_that_is_only_read() -> None:
    bench = Bench()
    request = bench.add([1, 2], RequestParams(0, constraint=Unused()))
    bench.step()
    assert request.finish_reason is FinishReason.LENGTH


def test_a_request_set_back_while_it_waits_still_gets_its_mask() -> None:
    bench = Bench()
    bound = bench.add([1, 2], RequestParams(2, constraint=Unused()))
    bench.step()
    bench.scheduler._set_back(bound)
    bench.scheduler.choices.take(bound, bits(100))
    bench.step()
    assert output(bound) == [100]
    assert [token_id for _, token_id in bench.asked] == [None, 100], "the first was asked for once"


def test_a_mask_that_leaves_nothing_ends_its_request_alone() -> None:
    bench = Bench()
    bound, free = bench.add([1, 2], RequestParams(2, constraint=Unused())), bench.add([5], RequestParams(2))
    bench.step()
    bench.scheduler.choices.take(bound, bits())
    bench.finish()
    assert (bound.finish_reason, bench.events[bound][-1].error) == (FinishReason.ERROR, NO_CHOICE)
    assert output(free) == [5, 10]


def test_a_bad_word_is_not_completed() -> None:
    """Alone it would be 3, 6, 12, 24."""
    bench = Bench()
    request = bench.add([1, 2], RequestParams(4, bad_words=((6, 12), (2, 4))))
    first = bench.step()
    assert first.chunks[0].allowed is not None
    assert not allows(first.chunks[0].allowed, 4)
    bench.finish()
    assert output(request) == [3, 6, 13, 25]


def test_repetitions_are_penalised_in_prompt_and_decode_chunks() -> None:
    bench = Bench()
    bench.add([12, 2, 12], RequestParams(2, dry=Dry(1.0, allowed_length=1)))
    assert bench.step().chunks[0].biases == ((2, -1.0),)
    assert bench.step().chunks[0].biases == (), "26 is new"
