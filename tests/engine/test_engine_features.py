"""The engine with its thread, on FakeRunner: masks that come late, or never; deadlines; requests seen and cancelled by
their owner."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from app.engine.engine import Engine
from app.engine.errors import ConstraintFailed
from app.engine.limits import Limits
from app.engine.report import StepReport
from app.engine.request import DEADLINE, Constraint, FinishReason, RequestParams, Submission, TokenEvent
from app.engine.stream import EventStream
from model.batch import NO_CHOICE, Batch
from tests.fakes import BYTES, FakeRunner, bits


@asynccontextmanager
async def running(runner: FakeRunner, max_num_seqs: int = 4, engine: type[Engine] = Engine) -> AsyncIterator[Engine]:
    started = engine(runner, BYTES, Limits(max_num_seqs, 16))
    started.start()
    try:
        yield started
    finally:
        await asyncio.to_thread(started.stop)
    assert runner.owners == {}


def ask(engine: Engine, prompt: list[int], params: RequestParams, call_id: str = "", owner: str = "") -> EventStream:
    return engine.submit([Submission(str(prompt), tuple(prompt), params, call_id, owner)])


async def read(stream: EventStream) -> list[TokenEvent]:
    events: list[TokenEvent] = []
    while arrived := await asyncio.wait_for(stream.next(), 10):
        events.extend(arrived)
    return events


def tokens(events: list[TokenEvent]) -> list[int | None]:
    return [event.token_id for event in events]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


class Gate:
    """Lets a step through for each release; open for good once it is opened."""

    def __init__(self) -> None:
        self._steps = threading.Semaphore(0)

    def __call__(self, batch: Batch) -> None:
        assert self._steps.acquire(timeout=10)

    def release(self, num_steps: int = 1) -> None:
        self._steps.release(num_steps)

    def open(self) -> None:
        self.release(10_000)


class CountsDown:
    """Allows the token before the last one, from 100 on, and refuses to go on at `fails_at`."""

    def __init__(self, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.next = 100
        self.fails_at = fails_at
        self.error = error or ConstraintFailed("no further")

    def allowed(self) -> bytes:
        if self.next == self.fails_at:
            raise self.error
        return bits(self.next)

    def accept(self, token_id: int) -> None:
        assert token_id == self.next
        self.next -= 1


class Waits(CountsDown):
    """Until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Event()

    def allowed(self) -> bytes:
        self.may_go_on.wait(20)
        return super().allowed()


def bound_by(constraint: Constraint, max_tokens: int = 4, timeout_s: float | None = None) -> RequestParams:
    return RequestParams(max_tokens, constraint=constraint, timeout_s=timeout_s)


# ── constraints ──


@pytest.mark.parametrize("prompt", [[1], [1, 2, 3], [1] * 40])
async def test_a_constraint_chooses_token_by_token(prompt: list[int]) -> None:
    async with running(FakeRunner()) as engine:
        assert tokens(await read(ask(engine, prompt, bound_by(CountsDown())))) == [100, 99, 98, 97]


async def test_many_constraints_at_once_with_too_few_slots_and_blocks() -> None:
    async with running(FakeRunner(num_blocks=8)) as engine:
        streams = [ask(engine, [number] * 5, bound_by(CountsDown(), 12)) for number in range(1, 25)]
        assert {tuple(tokens(await read(stream))) for stream in streams} == {tuple(range(100, 88, -1))}


async def test_a_mask_that_does_not_come_holds_up_nobody_else() -> None:
    constraint = Waits()
    async with running(FakeRunner()) as engine:
        bound = ask(engine, [1], bound_by(constraint))
        assert tokens(await read(ask(engine, [5], RequestParams(3)))) == [5, 10, 20]
        assert tokens(await read(ask(engine, [5], bound_by(CountsDown())))) == [100, 99, 98, 97]
        constraint.may_go_on.set()
        assert tokens(await read(bound)) == [100, 99, 98, 97]


async def test_where_only_a_mask_is_waited_for_the_engine_does_not_look_again_and_again() -> None:
    class CountingEngine(Engine):
        num_turns = 0

        def _drain(self) -> None:
            self.num_turns += 1
            super()._drain()

    constraint, runner = Waits(), FakeRunner()
    async with running(runner, engine=CountingEngine) as engine:
        assert isinstance(engine, CountingEngine)
        bound = ask(engine, [1, 2], bound_by(constraint))
        await until(lambda: len(runner.batches) == 1)
        await asyncio.sleep(0.05)
        num_turns = engine.num_turns
        await asyncio.sleep(0.05)
        assert engine.num_turns == num_turns
        constraint.may_go_on.set()
        assert tokens(await read(bound)) == [100, 99, 98, 97]


@pytest.mark.parametrize(("fails_at", "given"), [(100, []), (98, [100, 99])])
@pytest.mark.parametrize(
    ("error", "told"),
    [(ConstraintFailed("no further"), "no further"), (KeyError("secret"), "The constraint failed: KeyError.")],
)
async def test_a_constraint_that_raises_ends_its_request_and_no_other(
    fails_at: int, given: list[int], error: Exception, told: str
) -> None:
    async with running(FakeRunner()) as engine:
        neighbour = ask(engine, [5], RequestParams(20))
        events = await read(ask(engine, [1], bound_by(CountsDown(fails_at, error))))
        assert tokens(events) == [*given, None]
        assert (events[-1].finish_reason, events[-1].error) == (FinishReason.ERROR, told)
        assert tokens(await read(neighbour)) == [5 * 2**power % 256 for power in range(20)]


async def test_a_constraint_that_allows_nothing_ends_its_request() -> None:
    class Nothing(CountsDown):
        def allowed(self) -> bytes:
            return bits()

    async with running(FakeRunner()) as engine:
        events = await read(ask(engine, [1], bound_by(Nothing())))
        assert (events[-1].finish_reason, events[-1].error) == (FinishReason.ERROR, NO_CHOICE)


async def test_a_request_that_waits_for_its_mask_can_be_left_and_stopped() -> None:
    constraints = [Waits(), Waits()]
    runner = FakeRunner()
    async with running(runner) as engine:
        left, stopped = (ask(engine, [1, 2], bound_by(constraint)) for constraint in constraints)
        await until(lambda: len(runner.slots) == 2)
        left.abort()
        assert (await read(left))[-1].finish_reason is FinishReason.ABORT
        await asyncio.to_thread(engine.stop)
        assert (await read(stopped))[-1].finish_reason is FinishReason.SHUTDOWN
        for constraint in constraints:
            constraint.may_go_on.set()


async def test_a_slot_is_reported_also_where_no_step_can_follow_yet() -> None:
    reports: list[StepReport] = []
    constraint = Waits()
    engine = Engine(FakeRunner(), BYTES, Limits(4, 16), reports.append)
    engine.start()
    stream = ask(engine, [1], bound_by(constraint))
    await until(lambda: bool(reports) and reports[-1].num_running == 1)
    assert [len(report.queue_seconds) for report in reports] == [0, 1]
    assert reports[-1].step_seconds is None
    constraint.may_go_on.set()
    assert len(await read(stream)) == 4
    await asyncio.to_thread(engine.stop)
    assert sum(len(report.queue_seconds) for report in reports) == 1


async def test_a_constraint_that_raises_for_a_request_that_has_gone_harms_nobody() -> None:
    class WaitsAndFails(Waits):
        def accept(self, token_id: int) -> None:
            self.may_go_on.wait(20)
            raise ConstraintFailed("too late")

        def allowed(self) -> bytes:
            return bits(self.next)

    constraint, runner = WaitsAndFails(), FakeRunner()
    async with running(runner) as engine:
        left = ask(engine, [1, 2], bound_by(constraint))
        assert tokens(await left.next()) == [100]
        left.abort()
        assert (await read(left))[-1].finish_reason is FinishReason.ABORT
        constraint.may_go_on.set()
        assert tokens(await read(ask(engine, [5], bound_by(CountsDown())))) == [100, 99, 98, 97]
        assert engine.is_alive


async def test_the_threads_of_the_masks_end_with_the_engine() -> None:
    def num_threads() -> int:
        return sum(thread.name.startswith("masks") for thread in threading.enumerate())

    async with running(FakeRunner()) as engine:
        await read(ask(engine, [5], bound_by(CountsDown())))
        assert num_threads() > 0
    await until(lambda: num_threads() == 0)


# ── deadlines ──


async def test_an_idle_engine_wakes_for_a_deadline() -> None:
    """Nothing else would wake it: the mask comes only when the request has ended."""
    constraint = Waits()
    async with running(FakeRunner()) as engine:
        events = await read(ask(engine, [1], bound_by(constraint, timeout_s=0.05)))
        assert (events[-1].finish_reason, events[-1].stop_reason) == (FinishReason.LENGTH, DEADLINE)
        constraint.may_go_on.set()
        assert tokens(await read(ask(engine, [5], RequestParams(2)))) == [5, 10], "and goes on"


async def test_a_deadline_counts_in_the_queue_and_in_a_run() -> None:
    gate = Gate()
    runner = FakeRunner(before_step=gate)
    async with running(runner, max_num_seqs=1) as engine:
        runs = ask(engine, [1], RequestParams(90, timeout_s=0.1))
        waits = ask(engine, [2], RequestParams(90, timeout_s=0.1))
        gate.release(2)
        await until(lambda: len(runner.batches) == 3)
        await asyncio.sleep(0.1)
        gate.open()
        for stream, num_tokens in ((runs, 3), (waits, 0)):
            events = await read(stream)
            assert len(events) == num_tokens + 1
            assert (events[-1].finish_reason, events[-1].stop_reason) == (FinishReason.LENGTH, DEADLINE)


# ── by their owner ──


async def test_an_owner_sees_its_open_requests_and_nobody_elses() -> None:
    gate = Gate()
    runner = FakeRunner(before_step=gate)
    async with running(runner, max_num_seqs=2) as engine:
        streams = [
            ask(engine, [1] * 20, RequestParams(30), "call-1", "ann"),
            ask(engine, [1], RequestParams(4), "call-2", "bob"),
            ask(engine, [2, 2], RequestParams(4, priority=3, timeout_s=1000.0), "call-3", "ann"),
        ]
        await until(lambda: len(runner.batches) == 1)
        question = asyncio.create_task(engine.requests("ann"))
        await asyncio.sleep(0)
        gate.release()
        running_one, queued = await asyncio.wait_for(question, 10)
        assert (running_one.call_id, running_one.state, running_one.num_prompt_tokens) == ("call-1", "prefill", 20)
        assert (queued.call_id, queued.request_id, queued.state) == ("call-3", "[2, 2]", "queued")
        assert (running_one.deadline_in_s, running_one.priority, queued.priority) == (None, 0, 3)
        assert queued.deadline_in_s is not None
        assert 900 < queued.deadline_in_s < 1000
        assert queued.age_s > 0
        gate.release(3)
        await until(lambda: len(runner.batches) == 5)
        question = asyncio.create_task(engine.requests("ann"))
        await asyncio.sleep(0)
        gate.open()
        view = (await asyncio.wait_for(question, 10))[0]
        assert (view.call_id, view.state, view.num_output_tokens) == ("call-1", "decode", 4)
        await asyncio.gather(*map(read, streams))
        assert await engine.requests("ann") == ()


async def test_a_call_is_cancelled_whole_by_its_owner_and_by_nobody_else() -> None:
    gate = Gate()
    runner = FakeRunner(before_step=gate)
    async with running(runner, max_num_seqs=2) as engine:
        params = RequestParams(50)
        submissions = [Submission(str(n), (n,), params, "call", "ann") for n in (1, 2, 3)]  # two run, one waits
        stream = engine.submit(submissions)
        other = ask(engine, [4], RequestParams(3), "other", "ann")
        foreign = ask(engine, [5], RequestParams(3), "call", "bob")
        await until(lambda: len(runner.batches) == 1)
        owners = ("eve", "", "ann", "ann")
        cancels = [asyncio.create_task(engine.cancel("call", owner)) for owner in owners]
        await asyncio.sleep(0)
        gate.open()
        assert await asyncio.wait_for(asyncio.gather(*cancels), 10) == [0, 0, 3, 0]
        ended = [event.finish_reason for event in await read(stream) if event.finish_reason]
        assert ended == [FinishReason.ABORT] * 3
        assert tokens(await read(other)) == [4, 8, 16]
        assert tokens(await read(foreign)) == [5, 10, 20]


# ── last events ──


async def test_every_last_event_and_no_other_has_timings() -> None:
    gate = Gate()
    runner = FakeRunner(before_step=gate)
    async with running(runner, max_num_seqs=1) as engine:
        finished, aborted, shut_down = (ask(engine, [n], RequestParams(n)) for n in (3, 90, 91))
        gate.release(10)
        answers = [await read(finished)]
        await until(lambda: len(runner.batches) == 11)
        aborted.abort()
        gate.release()
        answers.append(await read(aborted))
        stop = asyncio.create_task(asyncio.to_thread(engine.stop))
        await until(lambda: not engine.is_alive)
        gate.open()
        await stop
        answers.append(await read(shut_down))
    for events in answers:
        assert [event.timings is not None for event in events] == [False] * (len(events) - 1) + [True]
        timings = events[-1].timings
        assert timings is not None
        assert min(timings.queue_s, timings.prefill_s, timings.decode_s) >= 0
        assert timings.num_bytes == timings.num_blocks * runner.info.block_bytes
    assert [events[-1].finish_reason for events in answers] == ["length", "abort", "shutdown"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_even_of_an_engine_that_died() -> None:
    async with running(FakeRunner()) as engine:
        engine._scheduler.update = None  # type: ignore[assignment,method-assign]  # our own bug, not the runner's
        events = await read(ask(engine, [1], RequestParams(4)))
        engine._runner.owners.clear()  # type: ignore[attr-defined]
    assert events[-1].finish_reason is FinishReason.SHUTDOWN
    assert events[-1].timings is not None
