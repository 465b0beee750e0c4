"""What of a charge is given back: what was not generated, once, whether or not anybody read what was."""

import pytest

from app.api.metering import MeteredEvents
from app.engine.request import FinishReason, TokenEvent
from app.engine.stream import EventStream


def metered(num_charged: int) -> tuple[MeteredEvents, EventStream, list[int]]:
    stream, given_back = EventStream(2, abort=lambda: None), list[int]()
    return MeteredEvents(stream, num_charged, given_back.append), stream, given_back


async def test_behind_the_last_end_the_rest_is_given_back():
    events, stream, given_back = metered(10)
    stream.deliver(TokenEvent(0, 5))
    stream.deliver(TokenEvent(0, 6, finish_reason=FinishReason.STOP))
    await events.next()
    assert given_back == []
    stream.deliver(TokenEvent(1, finish_reason=FinishReason.ABORT))
    await events.next()
    events.abort()
    assert given_back == [8]


@pytest.mark.parametrize("num_read", [0, 4])
async def test_who_leaves_pays_for_what_was_not_read_too(num_read):
    events, stream, given_back = metered(10)
    for _ in range(4):
        stream.deliver(TokenEvent(0, 5))
    if num_read:
        await events.next()
    events.abort()
    events.abort()
    assert given_back == [6]


async def test_of_what_was_generated_whole_nothing_is_given_back():
    events, stream, given_back = metered(2)
    for index in range(2):
        stream.deliver(TokenEvent(index, 5, finish_reason=FinishReason.LENGTH))
    await events.next()
    events.abort()
    assert given_back == []
