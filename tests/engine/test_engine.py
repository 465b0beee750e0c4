"""The engine with its thread, on FakeRunner: what goes in, what comes out, and who hears of a fault."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from app.engine.engine import Engine
from app.engine.errors import EngineDead, RequestTooLong
from app.engine.limits import Limits
from app.engine.report import StepReport
from app.engine.request import FinishReason, RequestParams, Submission, TokenEvent
from app.engine.stream import EventStream
from model.batch import Batch
from tests.fakes import BYTES, EOS, FakeRunner, says


@dataclass
class Observed:
    reports: list[StepReport] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)


@asynccontextmanager
async def running(runner: FakeRunner, observed: Observed | None = None, max_num_seqs: int = 4) -> AsyncIterator[Engine]:
    observed = observed or Observed()
    engine = Engine(
        runner, BYTES, Limits(max_num_seqs, 16), observed.reports.append, lambda: observed.deaths.append("dead")
    )
    engine.start()
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.stop)


def ask(engine: Engine, *prompts: list[int], max_tokens: int = 4) -> EventStream:
    params = RequestParams(max_tokens, stop_token_ids=frozenset({EOS}))
    return engine.submit([Submission(str(prompt), tuple(prompt), params) for prompt in prompts])


async def read(stream: EventStream) -> list[TokenEvent]:
    events: list[TokenEvent] = []
    while arrived := await asyncio.wait_for(stream.next(), 10):
        events.extend(arrived)
    return events


def tokens(events: list[TokenEvent], index: int = 0) -> list[int | None]:
    return [event.token_id for event in events if event.index == index]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_request_gets_its_tokens_and_one_terminal_event() -> None:
    async with running(FakeRunner()) as engine:
        events = await read(ask(engine, [1, 2]))
        assert engine._streams == {}, "who has ended is forgotten: it would be told again when the engine ends"
    assert tokens(events) == [3, 6, 12, 24]
    assert [event.finish_reason for event in events] == [None, None, None, FinishReason.LENGTH]


async def test_the_requests_of_a_submission_run_together_and_are_told_apart() -> None:
    runner = FakeRunner()
    async with running(runner) as engine:
        events = await read(ask(engine, [1], [2], [3]))
    assert [tokens(events, index) for index in range(3)] == [[1, 2, 4, 8], [2, 4, 8, 16], [3, 6, 12, 24]]
    assert max(len(batch.chunks) for batch in runner.batches) == 3


async def test_fifty_clients_at_once_on_four_slots_get_what_each_gets_alone() -> None:
    async with running(FakeRunner()) as engine:
        streams = [ask(engine, [number], max_tokens=6) for number in range(1, 51)]
        answers = await asyncio.gather(*map(read, streams))
    assert [tokens(answer) for answer in answers] == [[n * 2**p % 256 for p in range(6)] for n in range(1, 51)]


async def test_what_just_fits_is_run_and_one_token_more_is_refused() -> None:
    async with running(FakeRunner(num_blocks=3, block_size=4)) as engine:
        with pytest.raises(RequestTooLong, match="the KV cache holds 12"):
            ask(engine, [1] * 9, max_tokens=4)
        assert len(await read(ask(engine, [1] * 9, max_tokens=3))) == 3
        assert len(await read(ask(engine, [1] * 12, max_tokens=0))) == 1


async def test_a_submission_is_accepted_whole_or_not_at_all() -> None:
    runner = FakeRunner(max_model_len=16)
    async with running(runner) as engine:
        with pytest.raises(RequestTooLong):
            ask(engine, [1], [1] * 16)
        await read(ask(engine, [7]))
    assert sum(len(batch.opened) for batch in runner.batches) == 1


async def test_an_abort_frees_the_slot_and_ends_the_stream() -> None:
    gate = threading.Semaphore(3)  # three steps, then the engine waits in the step
    runner = FakeRunner(before_step=lambda _: gate.acquire())
    async with running(runner) as engine:
        stream = ask(engine, [1], max_tokens=100)
        await until(lambda: len(runner.batches) == 4)
        stream.abort()
        gate.release(1000)
        events = await read(stream)
        assert events[-1].finish_reason is FinishReason.ABORT
        assert len(events) <= 5, "no step but the one that was running"
        snapshot = await engine.slots()
        assert (snapshot.blocks_used, snapshot.slots) == (0, ())
    assert runner.owners == {}


async def test_an_abort_in_the_queue_never_opens_a_slot() -> None:
    gate = threading.Semaphore(1)
    runner = FakeRunner(before_step=lambda _: gate.acquire())
    async with running(runner, max_num_seqs=1) as engine:
        running_stream = ask(engine, [1], max_tokens=3)
        queued = ask(engine, [2], max_tokens=3)
        await until(lambda: len(runner.batches) == 2)
        queued.abort()
        gate.release(1000)
        assert tokens(await read(queued)) == [None]
        assert tokens(await read(running_stream)) == [1, 2, 4]
    assert sum(len(batch.opened) for batch in runner.batches) == 1


async def test_a_fault_in_a_step_fails_its_requests_and_the_server_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def fail_for_7(batch: Batch) -> None:
        if any(7 in chunk.token_ids for chunk in batch.chunks):
            raise RuntimeError("bad luck")

    runner = FakeRunner(before_step=fail_for_7)
    async with running(runner) as engine:
        events = await read(ask(engine, [7]))
        assert (events[0].finish_reason, len(events)) == (FinishReason.ERROR, 1)
        assert events[0].error == "The model failed in this step: RuntimeError."
        assert tokens(await read(ask(engine, [5]))) == [5, 10, 20, 40]
        assert (await engine.slots()).blocks_used == 0
        assert engine.is_alive
    assert "bad luck" in caplog.text
    assert runner.owners == {}


async def test_a_fault_in_a_step_leaves_those_alone_that_wait() -> None:
    gate = threading.Event()

    def fail_for_7(batch: Batch) -> None:
        gate.wait(10)
        if any(7 in chunk.token_ids for chunk in batch.chunks):
            raise RuntimeError("bad luck")

    runner = FakeRunner(before_step=fail_for_7)
    async with running(runner, max_num_seqs=1) as engine:
        failing, waiting = ask(engine, [7]), ask(engine, [5])
        gate.set()
        assert [event.finish_reason for event in await read(failing)] == [FinishReason.ERROR]
        assert tokens(await read(waiting)) == [5, 10, 20, 40]
    assert runner.owners == {}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_when_the_engine_dies_everybody_is_told_and_nothing_more_is_accepted() -> None:
    observed = Observed()
    runner = FakeRunner()
    async with running(runner, observed, max_num_seqs=1) as engine:
        gate = threading.Event()
        runner.before_step = lambda _: gate.wait(10) and None
        streams = [ask(engine, [1]), ask(engine, [2])]  # one runs, one waits
        await until(lambda: len(runner.batches) == 1)
        engine._scheduler.update = None  # type: ignore[assignment,method-assign]  # our own bug, not the runner's
        question = asyncio.create_task(engine.slots())
        await asyncio.sleep(0)
        gate.set()
        for stream in streams:
            events = await read(stream)
            assert events[-1].finish_reason is FinishReason.SHUTDOWN
            assert events[-1].error == "The engine failed; see the server's log."
        with pytest.raises(EngineDead):
            await asyncio.wait_for(question, 10)
        await until(lambda: not engine.is_alive)
        with pytest.raises(EngineDead):
            ask(engine, [3])
        with pytest.raises(EngineDead):
            await engine.slots()
        assert observed.deaths == ["dead"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_runner_that_cannot_even_free_ends_the_engine() -> None:
    def fail_to_free(batch: Batch) -> None:
        if not batch.chunks:
            raise RuntimeError("the device is gone")

    observed = Observed()
    async with running(FakeRunner(before_step=fail_to_free), observed) as engine:
        await read(ask(engine, [1]))
        await until(lambda: bool(observed.deaths))


async def test_stopping_ends_open_requests_with_an_error_and_frees_them() -> None:
    gate = threading.Semaphore(2)
    runner = FakeRunner(before_step=lambda _: gate.acquire())
    observed = Observed()
    async with running(runner, observed, max_num_seqs=1) as engine:
        streams = [ask(engine, [1], max_tokens=50), ask(engine, [2], max_tokens=50)]
        await until(lambda: len(runner.batches) == 3)
        stop = asyncio.create_task(asyncio.to_thread(engine.stop))
        await until(lambda: not engine.is_alive)
        gate.release(1000)
        await stop
        for stream in streams:
            events = await read(stream)
            assert (events[-1].finish_reason, events[-1].error) == (
                FinishReason.SHUTDOWN,
                "The server is shutting down.",
            )
        with pytest.raises(EngineDead):
            ask(engine, [3])
    assert runner.owners == {}
    assert observed.deaths == []


async def test_the_snapshot_sums_up() -> None:
    gate = threading.Semaphore(3)
    runner = FakeRunner(before_step=lambda _: gate.acquire())
    async with running(runner) as engine:
        stream = ask(engine, [1] * 6, [2], max_tokens=8)
        await until(lambda: len(runner.batches) == 4)
        question = asyncio.create_task(engine.slots())
        await asyncio.sleep(0)
        gate.release()
        snapshot = await question
        assert snapshot.blocks_used == sum(slot.num_blocks for slot in snapshot.slots) == 4
        assert [slot.num_tokens for slot in snapshot.slots] == [9, 4]
        assert {slot.phase for slot in snapshot.slots} == {"decode"}
        assert [slot.num_bytes for slot in snapshot.slots] == [3 * 32, 1 * 32]
        assert {slot.request_id for slot in snapshot.slots} == {str([1] * 6), "[2]"}
        gate.release(1000)
        await read(stream)


async def test_reports_add_up_to_what_happened() -> None:
    observed = Observed()
    async with running(FakeRunner(says("hi")), observed) as engine:
        await asyncio.gather(read(ask(engine, [1, 2], max_tokens=8)), read(ask(engine, [3], max_tokens=2)))
        await until(lambda: observed.reports[-1].blocks_used == 0)
    reports = observed.reports
    assert sum(report.num_prompt_tokens for report in reports) == 3
    assert sum(report.num_generated_tokens for report in reports) == 5
    assert sum(len(report.ttft_seconds) for report in reports) == sum(len(r.queue_seconds) for r in reports) == 2
    assert sum(len(report.inter_token_seconds) for report in reports) == 3
    assert sorted(reason for report in reports for reason in report.finished) == ["length", "stop"]
    assert all(time >= 0 for report in reports for time in (*report.ttft_seconds, *report.inter_token_seconds))
    assert (reports[-1].num_running, reports[-1].num_waiting) == (0, 0)


async def test_an_idle_engine_waits_for_its_inbox_instead_of_looking_again_and_again() -> None:
    class CountingEngine(Engine):
        num_turns = 0

        def _drain(self) -> None:
            self.num_turns += 1
            super()._drain()

    engine = CountingEngine(FakeRunner(), BYTES, Limits(4, 16))
    engine.start()
    await read(ask(engine, [1]))
    await asyncio.sleep(0.05)
    num_turns = engine.num_turns
    await asyncio.sleep(0.05)
    assert engine.num_turns == num_turns
    await asyncio.to_thread(engine.stop)
