import asyncio

from app.engine.request import FinishReason, TokenEvent
from app.engine.stream import EventStream


class Aborts:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


async def test_events_that_came_together_are_read_together() -> None:
    stream = EventStream(1, Aborts())
    events = [TokenEvent(0, 1), TokenEvent(0, 2), TokenEvent(0, 3, finish_reason=FinishReason.STOP)]
    for event in events:
        stream.deliver(event)
    assert await stream.next() == events
    assert await stream.next() == []


async def test_a_reader_waits_for_the_last_request_of_its_submission() -> None:
    stream = EventStream(2, Aborts())
    stream.deliver(TokenEvent(0, finish_reason=FinishReason.STOP))
    assert len(await stream.next()) == 1
    reader = asyncio.create_task(stream.next())
    await asyncio.sleep(0)
    assert not reader.done()
    stream.deliver(TokenEvent(1, finish_reason=FinishReason.STOP))
    assert [event.index for event in await reader] == [1]
    assert await stream.next() == []


async def test_abort_is_passed_on_once_and_not_after_the_end() -> None:
    aborts = Aborts()
    stream = EventStream(1, aborts)
    stream.abort()
    stream.abort()
    assert aborts.count == 1
    ended = EventStream(1, aborts)
    ended.deliver(TokenEvent(0, finish_reason=FinishReason.STOP))
    ended.abort()
    assert aborts.count == 1


async def test_a_reader_that_stalls_is_cut_and_keeps_what_it_was_sent() -> None:
    aborts = Aborts()
    stream = EventStream(1, aborts, max_buffered_events=3)
    for token in range(4):
        stream.deliver(TokenEvent(0, token))
    assert aborts.count == 1
    stream.deliver(TokenEvent(0, finish_reason=FinishReason.ABORT))
    assert [event.token_id for event in await stream.next()] == [0, 1, 2, 3, None]
    assert await stream.next() == []
