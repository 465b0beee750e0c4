"""How an engine comes to its end besides being stopped: drained, given up by the watchdog, or with its device gone."""

import asyncio
import threading

import pytest

from app.engine import failures
from app.engine.engine import Engine
from app.engine.errors import EngineDead, QueueFull, ShuttingDown
from app.engine.limits import Limits
from app.engine.request import FinishReason
from model.batch import Batch
from tests.engine.test_engine import Observed, ask, read, running, tokens, until
from tests.fakes import BYTES, FakeRunner


def gated(number: int) -> tuple[FakeRunner, threading.Semaphore]:
    """A runner that makes so many steps, and more with each release."""
    gate = threading.Semaphore(number)
    return FakeRunner(before_step=lambda _: gate.acquire()), gate


async def test_a_drain_waits_for_what_was_accepted_and_lets_nothing_in() -> None:
    runner, gate = gated(2)
    async with running(runner, max_num_seqs=1) as engine:
        streams = [ask(engine, [1]), ask(engine, [2])]  # one runs, one waits
        engine.raise_if_not_ready()
        draining = asyncio.create_task(engine.drain(60))
        await asyncio.sleep(0.05)
        with pytest.raises(ShuttingDown):
            ask(engine, [3])
        with pytest.raises(ShuttingDown):
            engine.raise_if_not_ready()
        assert engine.is_alive
        assert not draining.done()
        gate.release(1000)
        await asyncio.wait_for(draining, 10)
        assert [tokens(await read(stream)) for stream in streams] == [[1, 2, 4, 8], [2, 4, 8, 16]]


async def test_a_drain_ends_with_its_time_or_with_the_engine() -> None:
    runner, gate = gated(1)
    async with running(runner) as engine:
        ask(engine, [1])
        await asyncio.wait_for(engine.drain(0.05), 10)
        draining = asyncio.create_task(engine.drain(600))
        stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
        await asyncio.wait_for(draining, 10)
        gate.release(1000)
        await stopping


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_engine_that_is_given_up_tells_everybody_and_may_come_back_without_harm(
    capfd: pytest.CaptureFixture[str],
) -> None:
    observed, (runner, gate) = Observed(), gated(1)
    async with running(runner, observed, max_num_seqs=1) as engine:
        streams = [ask(engine, [1]), ask(engine, [2])]
        await until(lambda: len(runner.batches) == 2)
        stuck_at = engine.progress()
        assert stuck_at is not None
        assert engine.progress() == stuck_at
        question = asyncio.create_task(engine.slots())
        await asyncio.sleep(0)
        await asyncio.to_thread(engine.give_up)
        for stream in streams:
            last = (await read(stream))[-1]
            assert (last.finish_reason, last.error) == (
                FinishReason.SHUTDOWN,
                "The engine is stuck; see the server's log.",
            )
        with pytest.raises(EngineDead):
            await asyncio.wait_for(question, 10)
        with pytest.raises(EngineDead):
            ask(engine, [3])
        with pytest.raises(EngineDead):
            engine.raise_if_not_ready()
        assert observed.deaths == ["dead"]
        await asyncio.wait_for(asyncio.to_thread(engine.stop), 10)  # does not wait for the step
        gate.release(1000)
        await until(lambda: not engine._thread.is_alive())
        assert [await read(stream) for stream in streams] == [[], []], "nobody hears of its end twice"
    assert runner.owners == {}
    assert "test_engine_ends.py" in capfd.readouterr().err, "where it is stuck"


async def test_an_engine_that_waits_for_work_has_no_progress_to_make() -> None:
    async with running(FakeRunner()) as engine:
        await read(ask(engine, [1]))
        await until(lambda: engine.progress() is None)


async def test_a_full_queue_refuses_and_a_request_that_ends_makes_room() -> None:
    runner, gate = gated(0)
    engine = Engine(runner, BYTES, Limits(1, 16, max_queued_requests=1))
    engine.start()
    streams = [ask(engine, [1]), ask(engine, [2])]
    with pytest.raises(QueueFull):
        ask(engine, [3])
    streams[1].abort()
    gate.release(1000)
    assert [len(await read(stream)) for stream in streams] == [4, 1]
    assert tokens(await read(ask(engine, [3]))) == [3, 6, 12, 24]
    await asyncio.to_thread(engine.stop)


async def test_the_servers_deadline_ends_a_request_that_has_none() -> None:
    engine = Engine(
        FakeRunner(before_step=lambda _: asyncio.run(asyncio.sleep(0.01))), BYTES, Limits(1, 16, max_seconds=0.1)
    )
    engine.start()
    last = (await read(ask(engine, [1], max_tokens=60)))[-1]
    assert (last.finish_reason, last.stop_reason) == (FinishReason.LENGTH, "deadline")
    await asyncio.to_thread(engine.stop)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_engine_whose_steps_all_fail_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(batch: Batch) -> None:
        if batch.chunks:
            raise RuntimeError("the device is gone")

    monkeypatch.setattr(failures, "MAX_IN_A_ROW", 3)
    monkeypatch.setattr(failures, "MAX_SECONDS", -1.0)
    observed, runner = Observed(), FakeRunner(before_step=fail)
    async with running(runner, observed) as engine:
        for _ in range(2):
            assert (await read(ask(engine, [1])))[-1].finish_reason is FinishReason.ERROR
            await until(lambda: not runner.batches[-1].chunks)  # frees what the request had, and that succeeds
        assert (await read(ask(engine, [1])))[-1].finish_reason is FinishReason.SHUTDOWN
        await until(lambda: bool(observed.deaths))
