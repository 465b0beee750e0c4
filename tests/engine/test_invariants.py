"""Any order of submit, step, cancel and fault: what DESIGN.md promises holds after every one of them."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.engine.request import FinishReason, Request, RequestParams, Submission
from app.engine.scheduler import Emission, Limits, Scheduler
from model.batch import ChunkResult, StepOutput
from tests.fakes import BYTES, FakeRunner

MAX_NUM_SEQS, NUM_BLOCKS, BLOCK_SIZE = 3, 8, 4
POOL = NUM_BLOCKS * BLOCK_SIZE


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = FakeRunner(num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE)
        self.scheduler = Scheduler(self.runner.info, Limits(MAX_NUM_SEQS, max_num_batched_tokens=5))
        self.requests: list[Request] = []
        self.num_terminal: dict[Request, int] = {}
        self.num_refusals = 0

    def hear(self, emissions: list[Emission]) -> None:
        for request, event in emissions:
            if event.finish_reason is not None:
                self.num_terminal[request] += 1

    @property
    def open_requests(self) -> list[Request]:
        return [request for request in self.requests if request.finish_reason is None]

    @rule(prompt=st.lists(st.integers(1, 255), min_size=1, max_size=20), max_tokens=st.integers(1, 12))
    def submit(self, prompt: list[int], max_tokens: int) -> None:
        submission = Submission(str(len(self.requests)), tuple(prompt), RequestParams(max_tokens))
        assert len(prompt) + max_tokens <= POOL
        request = Request(submission, 0, BYTES, arrival_time=float(len(self.requests)))
        self.requests.append(request)
        self.num_terminal[request] = 0
        self.scheduler.add(request)

    @precondition(lambda self: self.scheduler.has_work)
    @rule()
    def step(self) -> None:
        batch = self.scheduler.schedule()
        assert sum(chunk.num_tokens for chunk in batch.chunks) <= 5
        assert batch.freed or batch.chunks, "where there is work, something happens"
        self.hear(self.scheduler.update(batch, self.runner.run(batch)))

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
        results[choice % len(results)] = ChunkResult(error="not finite")
        self.hear(self.scheduler.update(batch, StepOutput(tuple(results))))

    @rule()
    def run_dry(self) -> None:
        """Progress: whatever is open ends within its tokens' worth of steps, even set back again and again."""
        for _ in range(40 * (1 + len(self.open_requests))):
            if not self.scheduler.has_work:
                break
            self.step()
        assert not self.scheduler.has_work
        assert self.runner.owners == {}

    @invariant()
    def every_block_has_one_owner_and_none_is_lost(self) -> None:
        self.scheduler.slots.check()

    @invariant()
    def every_request_is_in_one_place(self) -> None:
        running, waiting = self.scheduler.running, list(self.scheduler.waiting)
        assert sorted(map(id, [*running, *waiting])) == sorted(map(id, self.open_requests))
        assert all(request.slot is not None for request in running)
        assert all(request.slot is None for request in waiting)
        assert {request.slot.owner for request in running if request.slot} == {r.request_id for r in running}

    @invariant()
    def first_come_first_served(self) -> None:
        order = [request.arrival_time for request in [*self.scheduler.running, *self.scheduler.waiting]]
        assert order == sorted(order)

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
    def every_answer_is_the_one_it_would_be_alone(self) -> None:
        for request in self.requests:
            known = list(request.token_ids[: request.num_prompt_tokens])
            while len(known) < len(request.token_ids):
                known.append(sum(known) % 256)
            assert known == request.token_ids


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
