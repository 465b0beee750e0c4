"""One runner takes the place of another: whose tokens are whose, what waits, what ends, and what is left."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest

from app.engine.errors import EngineDead
from app.engine.request import FinishReason, RequestParams, Submission, TokenEvent
from app.engine.stream import EventStream
from app.engine.swaps import ENDED, OtherShape, SwapPending
from tests.engine.test_engine import ask, read, running, tokens, until
from tests.fakes import FakeRunner, NextToken, says

NEW = [ord(letter) for letter in "new "]


def says_what_it_was(name: str) -> NextToken:
    """The name's letters, again and again."""
    return lambda token_ids, num_prompt_tokens: ord(name[(len(token_ids) - num_prompt_tokens) % len(name)])


@pytest.fixture
def gate() -> Iterator[threading.Semaphore]:
    """A step of the old runner waits for it."""
    semaphore = threading.Semaphore(0)
    yield semaphore
    semaphore.release(100_000)


def runners(gate: threading.Semaphore, **options: int) -> tuple[FakeRunner, FakeRunner]:
    old = FakeRunner(says_what_it_was("old "), before_step=lambda _: gate.acquire(timeout=5), **options)
    return old, FakeRunner(says_what_it_was("new "), **options)


def text(events: list[TokenEvent]) -> str:
    return "".join(event.text for event in events)


async def test_an_idle_engine_swaps_at_once() -> None:
    async with running(FakeRunner()) as engine:
        await engine.swaps.swap(FakeRunner(says("new")))
        events = await read(ask(engine, [1, 2]))
    assert (text(events), events[-1].num_swaps) == ("new", 1)


async def test_who_runs_ends_with_the_old_and_who_waits_begins_with_the_new(gate: threading.Semaphore) -> None:
    old, new = runners(gate)
    async with running(old, max_num_seqs=2) as engine:
        begun = ask(engine, [1], [2], max_tokens=20)
        gate.release(2)
        await until(lambda: len(old.batches) >= 3)
        queued = ask(engine, [3], max_tokens=8)
        swap = asyncio.create_task(engine.swaps.swap(new))
        await asyncio.sleep(0)
        later = ask(engine, [4], [5], [6], max_tokens=8)
        assert not swap.done()
        gate.release(100)
        ends = [await read(stream) for stream in (begun, queued, later)]
        await asyncio.wait_for(swap, 10)
        assert not old.slots, "the old runner was told to destroy what it held"
        assert not old.owners
        await until(lambda: not new.owners)
        assert (await engine.slots()).slots == ()

    old_events, *rest = ends
    for index in range(2):
        own = [event for event in old_events if event.index == index]
        assert (text(own), own[-1].num_swaps) == ("old " * 5, 0)
    for events in rest:
        assert text([event for event in events if event.index == 0]) == "new new "
        assert {event.num_swaps for event in events if event.finish_reason} == {1}


async def test_a_request_set_back_for_want_of_blocks_ends_with_the_old(gate: threading.Semaphore) -> None:
    """Its first tokens are the old weights', and published."""
    old, new = runners(gate, num_blocks=6)
    async with running(old, max_num_seqs=4) as engine:
        streams = [ask(engine, [number], max_tokens=14) for number in range(3)]
        await until(lambda: len(old.batches) >= 1)
        gate.release(8)
        await until(lambda: len(old.batches) >= 9)
        assert engine._scheduler.num_preemptions, "or this test tests nothing"
        swap = asyncio.create_task(engine.swaps.swap(new))
        await asyncio.sleep(0.01)
        gate.release(1000)
        ends = [await read(stream) for stream in streams]
        await asyncio.wait_for(swap, 10)
    for events in ends:
        assert text(events) == ("old " * 4)[:14]
        assert events[-1].num_swaps == 0


async def test_all_that_is_open_ends_with_an_error_where_that_is_asked(gate: threading.Semaphore) -> None:
    old, new = runners(gate)
    async with running(old, max_num_seqs=1) as engine:
        runs, waits = ask(engine, [1], max_tokens=100), ask(engine, [2])
        gate.release(2)
        await until(lambda: len(old.batches) >= 3)
        swap = asyncio.create_task(engine.swaps.swap(new, ends_open=True))
        await asyncio.sleep(0.01)
        gate.release(3)
        ends = [await read(stream) for stream in (runs, waits)]
        await asyncio.wait_for(swap, 10)
        assert tokens(await read(ask(engine, [3]))) == NEW
    for events in ends:
        assert (events[-1].finish_reason, events[-1].error) == (FinishReason.ERROR, ENDED)
    assert not old.owners


async def test_one_swap_at_a_time(gate: threading.Semaphore) -> None:
    old, new = runners(gate)
    async with running(old) as engine:
        stream = ask(engine, [1], max_tokens=20)
        await until(lambda: len(old.batches) >= 1)
        swap = asyncio.create_task(engine.swaps.swap(new))
        await asyncio.sleep(0)
        with pytest.raises(SwapPending):
            await engine.swaps.swap(FakeRunner())
        gate.release(100)
        await read(stream)
        await asyncio.wait_for(swap, 10)
        assert tokens(await read(ask(engine, [1]))) == NEW


@pytest.mark.parametrize("change", [{"num_blocks": 65}, {"vocab_size": 9}, {"max_model_len": 127}, {"hidden_size": 2}])
async def test_a_runner_of_another_shape_is_refused(change: dict[str, int]) -> None:
    other = FakeRunner(says("new"))
    other.info = replace(other.info, **change)  # type: ignore[arg-type]
    async with running(FakeRunner()) as engine:
        with pytest.raises(OtherShape, match=next(iter(change))):
            await engine.swaps.swap(other)
        assert tokens(await read(ask(engine, [1, 2]))) == [3, 6, 12, 24]


async def test_who_waits_for_a_swap_hears_of_the_engines_end(gate: threading.Semaphore) -> None:
    old, new = runners(gate)
    async with running(old) as engine:
        stream = ask(engine, [1], max_tokens=100)
        await until(lambda: len(old.batches) >= 1)
        swap = asyncio.create_task(engine.swaps.swap(new))
        await asyncio.sleep(0)
        stop = asyncio.create_task(asyncio.to_thread(engine.stop))
        await until(lambda: not engine.is_alive)
        gate.release(100_000)
        await stop
        await read(stream)
        with pytest.raises(EngineDead):
            await asyncio.wait_for(swap, 10)


async def test_a_stream_of_requests_over_twenty_swaps_mixes_nothing_up_and_keeps_no_runner() -> None:
    kept: list[weakref.ref[FakeRunner]] = []
    first = FakeRunner(says_what_it_was("a"), num_blocks=16)
    async with running(first) as engine:
        streams: list[EventStream] = []
        for number in range(1, 21):
            streams += [ask(engine, [1, place], max_tokens=9) for place in range(3)]
            await asyncio.sleep(0.001)
            runner = FakeRunner(says_what_it_was(chr(ord("a") + number)), num_blocks=16)
            kept.append(weakref.ref(runner))
            await engine.swaps.swap(runner)
            del runner
        for stream in streams:
            events = await read(stream)
            assert events[-1].num_swaps is not None
            assert text(events) == chr(ord("a") + events[-1].num_swaps) * 9
        gc.collect()
        assert [number for number, runner in enumerate(kept) if runner() is not None] == [19]


async def test_who_waits_may_be_ended_by_its_deadline_during_a_swap(gate: threading.Semaphore) -> None:
    old, new = runners(gate)
    async with running(old) as engine:
        stream = ask(engine, [1], max_tokens=40)
        await until(lambda: len(old.batches) >= 1)
        swap = asyncio.create_task(engine.swaps.swap(new))
        await asyncio.sleep(0)
        waits = engine.submit([Submission("late", (1,), RequestParams(4, timeout_s=0.05))])
        await asyncio.sleep(0.1)
        gate.release(1)
        [last] = await read(waits)
        assert (last.finish_reason, last.token_id, last.num_swaps) == (FinishReason.LENGTH, None, None)
        assert not swap.done()
        gate.release(1000)
        await read(stream)
        await asyncio.wait_for(swap, 10)
