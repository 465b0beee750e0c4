"""Any order of submit, step, cancel, deadline, late or failed mask and fault: what DESIGN.md promises holds after every
one, and after a shutdown at the end of each.

A thousand such orders of fifty here; ten thousand with `pytest -m long tests/engine/test_invariants.py`.
"""

from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.engine.limits import Limits
from app.engine.request import Emission, FinishReason, Request, RequestParams, Submission
from app.engine.scheduler import Scheduler
from model.batch import ChunkResult, StepOutput
from tests.fakes import BYTES, FakeRunner, bits

MAX_NUM_SEQS, NUM_BLOCKS, BLOCK_SIZE = 4, 16, 2  # small blocks: soon one is missing, and somebody is set back
POOL = NUM_BLOCKS * BLOCK_SIZE
MAX_STEPS_WITHOUT_PROGRESS = POOL  # all that fits can be computed again meanwhile, token by token


class OddNumbers:
    """A constraint whose masks come from the test."""

    def allowed(self) -> bytes:
        raise AssertionError

    def accept(self, token_id: int) -> None:
        raise AssertionError


ODD = bits(*range(1, 256, 2))
PARAMS = st.builds(
    RequestParams,
    max_tokens=st.sampled_from([0, 1, 4, 20, 20, 20]),
    constraint=st.sampled_from([None, None, None, OddNumbers()]),
    priority=st.integers(-1, 1),
    timeout_s=st.sampled_from([None, None, 15.0]),
    stop_token_ids=st.sampled_from([frozenset(), frozenset(), frozenset(range(0, 256, 7))]),
    wants_prompt_logprobs=st.booleans(),
    pools=st.booleans(),
)


PROMPT = st.lists(st.integers(1, 255), min_size=1, max_size=12)


class SchedulerMachine(RuleBasedStateMachine):
    num_set_back: ClassVar[int] = 0  # in all examples

    def __init__(self) -> None:
        super().__init__()
        self.runner = FakeRunner(num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE)
        self.scheduler = Scheduler(self.runner.info, Limits(MAX_NUM_SEQS, 5), self.ask_mask, lambda: self.now)
        self.now = 0.0
        self.asked: list[Request] = []  # whose masks are being computed
        self.requests: list[Request] = []
        self.num_terminal: dict[Request, int] = {}
        self.prompt_logprobs: dict[Request, list[float]] = {}
        self.published: dict[Request, list[int]] = {}
        self.computed: dict[Request, int] = {}  # the most tokens that its slots have held
        self.expected: dict[Request, list[int]] = {}  # prompt and as much of the answer as has been needed
        self.opened: dict[int, tuple[int, str]] = {}  # generation → slot number and owner
        self.progress = 0, 0
        self.num_steps_without_progress = 0

    def ask_mask(self, request: Request, token_id: int | None) -> None:
        assert request not in self.asked, "one mask at a time"
        assert token_id == (request.token_ids[-1] if request.num_output_tokens else None)
        self.asked.append(request)

    def hear(self, emissions: list[Emission]) -> None:
        for request, event in emissions:
            self.prompt_logprobs[request] += [target.logprob for target in event.prompt_logprobs]
            self.published[request] += [] if event.token_id is None else [event.token_id]
            if event.finish_reason is not None:
                self.num_terminal[request] += 1
                assert event.timings is not None

    def check_progress(self) -> None:
        """In so many steps somebody ends or is further than ever before; an awaited mask is the only excuse."""
        before = self.progress
        for request in self.scheduler.running:
            assert request.slot is not None
            self.computed[request] = max(self.computed[request], request.slot.num_tokens)
        self.progress = sum(self.num_terminal.values()), sum(self.computed.values())
        is_stuck = self.progress == before and not set(self.asked) & set(self.scheduler.running)
        self.num_steps_without_progress = self.num_steps_without_progress + 1 if is_stuck else 0
        assert self.num_steps_without_progress <= MAX_STEPS_WITHOUT_PROGRESS

    def turn_of(self, request: Request) -> tuple[float, int]:
        return request.turn, int(request.request_id)

    @property
    def open_requests(self) -> list[Request]:
        return [request for request in self.requests if request.finish_reason is None]

    @initialize(prompts=st.lists(PROMPT, max_size=5), num_steps=st.integers(0, 12))
    def a_crowd_has_come(self, prompts: list[list[int]], num_steps: int) -> None:
        """Who all want long answers: so some are set back soon, which the other rules seldom leave them time for."""
        for prompt in prompts:
            self.submit(prompt, RequestParams(max_tokens=20))
        self.steps(num_steps)

    @rule(prompt=PROMPT, params=PARAMS)
    def submit(self, prompt: list[int], params: RequestParams) -> None:
        number = str(len(self.requests))
        submission = Submission(number, tuple(prompt), params)
        assert len(prompt) + params.max_tokens <= POOL
        request = Request(submission, 0, BYTES, arrival_time=self.now)
        self.requests.append(request)
        self.num_terminal[request] = 0
        self.prompt_logprobs[request], self.published[request] = [], []
        self.computed[request], self.expected[request] = 0, list(prompt)
        self.scheduler.add(request)

    @rule(seconds=st.sampled_from([0.0, 1.0, 20.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        self.hear(self.scheduler.end_overdue())
        assert all(request.deadline > self.now for request in self.open_requests)

    @precondition(lambda self: self.asked)
    @rule(choice=st.integers(0, 1000))
    def a_mask_comes(self, choice: int) -> None:
        request = self.asked.pop(choice % len(self.asked))
        self.scheduler.choices.take(request, ODD)

    @precondition(lambda self: self.asked)
    @rule(choice=st.integers(0, 1000))
    def a_mask_fails(self, choice: int) -> None:
        request = self.asked.pop(choice % len(self.asked))
        if request.finish_reason is None:
            self.hear([self.scheduler.end(request, FinishReason.ERROR, "no such grammar")])

    @precondition(lambda self: self.scheduler.has_work)
    @rule()
    def step(self) -> None:
        batch = self.scheduler.schedule()
        for admitted in self.scheduler.newly_admitted:
            assert all(self.turn_of(admitted) < self.turn_of(other) for other in self.scheduler.waiting)
        assert sum(chunk.num_tokens for chunk in batch.chunks) <= 5
        if not batch.freed and not batch.chunks:
            assert set(self.asked) & set(self.scheduler.running), "where there is work, something happens"
        output = self.runner.run(batch)
        self.hear(self.scheduler.update(batch, output))
        self.check_progress()

    @rule(how_many=st.integers(1, 16))
    def steps(self, how_many: int) -> None:
        for _ in range(how_many):
            if self.scheduler.has_work:
                self.step()

    @precondition(lambda self: self.open_requests)
    @rule(choice=st.integers(0, 1000))
    def cancel(self, choice: int) -> None:
        request = self.open_requests[choice % len(self.open_requests)]
        self.hear([self.scheduler.end(request, FinishReason.ABORT)])

    @precondition(lambda self: self.scheduler.running or self.scheduler.waiting)
    @rule(ran=st.booleans())
    def fault_of_a_step(self, ran: bool) -> None:
        """The runner raises, before or after it did its work."""
        batch = self.scheduler.schedule()
        if ran:
            self.runner.run(batch)
        self.hear(self.scheduler.fail(batch, "fault"))

    @precondition(lambda self: self.scheduler.running or self.scheduler.waiting)
    @rule(choice=st.integers(0, 1000))
    def fault_of_a_row(self, choice: int) -> None:
        batch = self.scheduler.schedule()
        results = list(self.runner.run(batch).results)
        if results:
            results[choice % len(results)] = ChunkResult(error="not finite")
        self.hear(self.scheduler.update(batch, StepOutput(tuple(results))))

    @rule()
    def run_dry(self) -> None:
        """Progress: whatever is open ends within its tokens' worth of steps, even set back again and again."""
        for _ in range(40 * (1 + len(self.open_requests))):
            if not self.scheduler.has_work:
                break
            if self.asked:
                self.a_mask_comes(0)
            self.step()
        assert not self.scheduler.has_work
        assert self.runner.owners == {}

    def teardown(self) -> None:
        """The server ends: everybody hears of it, and nothing is left."""
        SchedulerMachine.num_set_back += self.scheduler.num_preemptions
        self.hear(
            [self.scheduler.end(one, FinishReason.SHUTDOWN, "shutting down") for one in self.scheduler.open_requests]
        )
        batch = self.scheduler.schedule()
        assert not batch.chunks
        self.runner.run(batch)
        assert set(self.num_terminal.values()) <= {1}
        assert not self.scheduler.has_work
        assert (self.runner.owners, self.runner.slots) == ({}, {})
        assert self.scheduler.slots.num_free_blocks == NUM_BLOCKS
        assert self.scheduler.slots.num_free_slots == MAX_NUM_SEQS

    @invariant()
    def every_block_has_one_owner_and_none_is_lost(self) -> None:
        table = self.scheduler.slots
        table.check()
        assert table.num_free_blocks + table.num_used_blocks == NUM_BLOCKS
        assert table.num_free_slots + len(list(table.live)) == MAX_NUM_SEQS

    @invariant()
    def the_runner_takes_every_block_to_be_whose_it_is(self) -> None:
        """But for those that were freed since the last step: it hears of them with the next."""
        owners = {block: slot.slot for slot in self.scheduler.slots.live for block in slot.block_ids}
        freed = {block for one in self.scheduler._freed for block in one.block_ids}
        assert {block: slot for block, slot in self.runner.owners.items() if block not in freed} == owners

    @invariant()
    def a_generation_is_one_opening_of_one_slot_for_one_request(self) -> None:
        for slot in self.scheduler.slots.live:
            stamp = slot.slot, slot.owner
            assert self.opened.setdefault(slot.generation, stamp) == stamp

    @invariant()
    def every_request_is_in_one_place(self) -> None:
        running, waiting = self.scheduler.running, list(self.scheduler.waiting)
        assert sorted(map(id, [*running, *waiting])) == sorted(map(id, self.open_requests))
        assert all(request.slot is not None for request in running)
        assert all(request.slot is None for request in waiting)
        assert all(self.scheduler.choices.get(request) is None for request in self.requests if request.finish_reason)
        assert {request.slot.owner for request in running if request.slot} == {r.request_id for r in running}

    @invariant()
    def all_take_their_turns(self) -> None:
        for requests in (self.scheduler.running, self.scheduler.waiting):
            turns = [self.turn_of(request) for request in requests]
            assert turns == sorted(turns)

    @invariant()
    def while_none_has_ended_the_first_in_turn_of_those_that_ran_was_never_set_back(self) -> None:
        started = [request for request in self.requests if request.admission_time is not None]
        if started and self.open_requests == self.requests:
            assert min(started, key=lambda request: request.turn).num_preemptions == 0

    @invariant()
    def one_terminal_event_each(self) -> None:
        for request in self.requests:
            assert self.num_terminal[request] == (request.finish_reason is not None)

    @invariant()
    def a_slot_holds_no_more_than_its_tokens_need(self) -> None:
        for request in self.scheduler.running:
            assert request.slot is not None
            assert request.slot.num_tokens <= len(request.token_ids)
            assert len(request.slot.block_ids) == -(-request.slot.num_tokens // BLOCK_SIZE)

    @invariant()
    def every_answer_is_the_one_it_would_be_alone_and_comes_once(self) -> None:
        for request, expected in self.expected.items():
            while len(expected) < len(request.token_ids):
                expected.append(next_token(request.params, expected))
            assert request.token_ids == expected
            assert self.published[request] == expected[request.num_prompt_tokens :]

    @invariant()
    def log_probabilities_of_a_prompt_come_once_each_and_before_its_answer(self) -> None:
        for request, heard in self.prompt_logprobs.items():
            whole = [-0.5 * position for position in range(1, request.num_prompt_tokens)]
            is_wanted = request.params.wants_prompt_logprobs
            assert heard == (whole[: len(heard)] if is_wanted else [])
            if is_wanted and request.num_output_tokens:
                assert heard == whole


def next_token(params: RequestParams, token_ids: list[int]) -> int:
    token = sum(token_ids) % 256
    return token | 1 if params.constraint else token


class TestScheduler(SchedulerMachine.TestCase):  # type: ignore[name-defined,misc]  # made at run time
    settings = settings(max_examples=1000, stateful_step_count=50, deadline=None)

    def runTest(self) -> None:  # noqa: N802  # unittest's name
        SchedulerMachine.num_set_back = 0
        super().runTest()
        assert SchedulerMachine.num_set_back >= 100, "the crowds were to be too much for the pool"


@pytest.mark.long
@pytest.mark.timeout(7200)
class TestSchedulerForLong(TestScheduler):
    settings = settings(max_examples=10_000, stateful_step_count=50, deadline=None)
