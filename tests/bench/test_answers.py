"""What an answer says and when, fed in pieces with given times."""

import json
from typing import Any

import pytest

from app.bench.answers import Answer, StreamedAnswer, WholeAnswer
from app.bench.records import Failure
from tests.bench.scripted_server import DONE, event, usage


def streamed(*parts: tuple[float, bytes], status: int = 200, **options: Any) -> Answer:
    return _fed(StreamedAnswer, parts, status, **options)


def _fed(kind: type[Answer], parts: tuple[tuple[float, bytes], ...], status: int, **options: Any) -> Answer:
    pieces: list[float] = []
    answer = kind(pieces.append, **{"cancel_after": None, "keep_text": True} | options)
    answer.head(status)
    for now, data in parts:
        if not answer.has_enough:
            answer.body(data, now)
    answer.finish()
    if answer.first is not None:
        assert len(pieces) == len(answer.gaps) + 1, "each piece is told"
    return answer


def chat_event(**delta: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}).encode() + b"\n\n"


def test_a_stream_has_the_times_of_its_pieces_and_the_counts_of_its_usage() -> None:
    answer = streamed(
        (1.0, event("a")), (1.5, event("b")), (2.5, event("c", "length")), (9.0, usage(7, 5)), (9.0, DONE)
    )
    assert (answer.failure, answer.first, answer.gaps, answer.last) == (None, 1.0, [0.5, 1.0], 2.5)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 5)
    assert answer.texts == ["a", "b", "c"]


def test_pieces_without_text_are_not_a_first_token() -> None:
    """A role comes before there is a token, and an end after the last."""
    answer = streamed(
        (1.0, chat_event(role="assistant", content="")),
        (2.0, chat_event(content="a")),
        (3.0, chat_event(content="b")),
        (4.0, event("", "stop")),
        (5.0, usage(1, 3) + DONE),
    )
    assert (answer.first, answer.gaps, answer.last) == (2.0, [1.0], 4.0)


def test_an_empty_piece_that_ends_nothing_is_no_token() -> None:
    answer = streamed(
        (1.0, event("a")), (2.0, event("")), (3.0, event("b")), (9.0, event("")), (9.0, usage(1, 2) + DONE)
    )
    assert (answer.gaps, answer.last) == ([2.0], 3.0)


@pytest.mark.parametrize("delta", [{"reasoning_content": "hm"}, {"reasoning": "hm"}, {"tool_calls": [{"index": 0}]}])
def test_what_a_chat_thinks_or_calls_is_output_too(delta: dict[str, Any]) -> None:
    assert streamed((1.0, chat_event(**delta)), (2.0, usage(1, 1) + DONE)).first == 1.0


def test_events_may_be_cut_anywhere_and_joined_anyhow() -> None:
    whole = (
        b": ping\r\n\r\n" + event("a").replace(b"\n", b"\r\n") + event("ü").replace(b"data: ", b"data:") + usage(1, 2)
    )
    for cut in range(len(whole)):
        answer = streamed((1.0, whole[:cut]), (2.0, whole[cut:] + DONE))
        assert answer.failure is None, cut
        assert answer.texts == ["a", "ü"]


def test_the_last_usage_counts_where_each_piece_has_one() -> None:
    counts = {"prompt_tokens": 4, "completion_tokens": 1}
    answer = streamed(
        (1.0, event("a", usage=counts)), (2.0, event("b", usage=counts | {"completion_tokens": 2}) + DONE)
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


@pytest.mark.parametrize(
    ("timings", "queue_s"), [({"prompt_ms": 250.0}, None), ({"queue_ms": 9, "prompt_ms": 250}, 0.009)]
)
def test_a_server_that_tells_where_its_time_went_is_believed(timings: dict[str, float], queue_s: float | None) -> None:
    answer = streamed((1.0, event("a", timings=timings)), (1.0, usage(1, 1) + DONE))
    assert (answer.queue_s, answer.prefill_s) == (queue_s, 0.25)


@pytest.mark.parametrize(
    ("parts", "failure", "message"),
    [
        (event("a"), Failure.BROKEN, "without its end mark"),
        (event("a") + usage(1, 1), Failure.BROKEN, "without its end mark"),
        (event("a") + DONE, Failure.NO_USAGE, "how many tokens"),
        (b"data: {not json\n\n", Failure.NONSENSE, "{not json"),
        (b'data: {"choices": 3}\n\n', Failure.NONSENSE, "valid array"),
        (b"data: [1]\n\n", Failure.NONSENSE, "[1]"),
        (b'data: {"error": {"message": "the engine\\ndied"}}\n\n', Failure.BROKEN, "the engine died"),
        (b"<html>hello</html>", Failure.BROKEN, "without its end mark"),
    ],
)
def test_a_stream_that_is_not_right_is_a_failure_with_a_line_of_text(
    parts: bytes, failure: Failure, message: str
) -> None:
    answer = streamed((1.0, parts))
    assert answer.failure is failure
    assert message in answer.message
    assert "\n" not in answer.message


@pytest.mark.parametrize(
    ("status", "body", "failure", "message"),
    [
        (503, b'{"error": {"message": "queue is full"}}', Failure.REFUSED, "status 503: queue is full"),
        (404, b'{"error": "no such model"}', Failure.REFUSED, "status 404: no such model"),
        (500, b"Internal Server Error", Failure.REFUSED, "status 500: Internal Server Error"),
        (307, b"", Failure.NONSENSE, "status 307"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(status: int, body: bytes, failure: Failure, message: str) -> None:
    answer = streamed((1.0, body), status=status)
    assert answer.failure is failure
    assert message in answer.message


def test_a_cancelled_stream_ends_after_so_many_pieces() -> None:
    answer = streamed(*((now, event("a")) for now in (1.0, 2.0, 3.0)), cancel_after=2)
    assert (answer.is_cancelled, answer.has_enough, answer.failure, answer.texts) == (True, True, None, ["a", "a"])


def test_text_is_kept_only_if_it_is_wanted() -> None:
    assert streamed((1.0, event("a")), (1.0, usage(1, 1) + DONE), keep_text=False).texts is None


def test_an_answer_that_never_ends_a_line_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.bench.answers.MAX_PENDING", 100)
    assert streamed((1.0, b"x" * 101)).failure is Failure.NONSENSE


def test_a_whole_answer_has_an_end_but_no_first_token() -> None:
    body = json.dumps(
        {
            "choices": [{"text": "hello", "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 2, "completion_tokens": 3},
        }
    ).encode()
    answer = _fed(WholeAnswer, ((1.0, body[:9]), (4.0, body[9:])), 200)
    assert (answer.failure, answer.first, answer.last, answer.texts) == (None, None, 4.0, ["hello"])
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_half_a_whole_answer_is_nonsense() -> None:
    assert _fed(WholeAnswer, ((1.0, b'{"choices": ['),), 200).failure is Failure.NONSENSE
