import pytest

from app.engine.request import FinishReason, Request, RequestParams, Submission, TokenEvent
from model.batch import ChunkResult, SamplingParams
from tests.fakes import BYTES, EOS


def run(params: RequestParams, tokens: str | list[int]) -> list[TokenEvent]:
    """The events of a request that samples `tokens`, until it ends."""
    request = Request(Submission("id", (1,), params), 0, BYTES, arrival_time=0.0)
    events = []
    for token in tokens.encode() if isinstance(tokens, str) else tokens:
        events.append(request.accept(ChunkResult(token)))
        if request.finish_reason is not None:
            break
    return events


def text(events: list[TokenEvent]) -> str:
    return "".join(event.text for event in events)


def test_max_tokens_ends_with_length_and_prints_what_was_held_back() -> None:
    events = run(RequestParams(3, stop=("cd",)), "abcd")
    assert text(events) == "abc"
    assert [event.finish_reason for event in events] == [None, None, FinishReason.LENGTH]


def test_a_stop_token_counts_but_is_not_printed() -> None:
    events = run(RequestParams(9, stop_token_ids=frozenset({EOS, ord("c")})), "abcd")
    assert (text(events), len(events)) == ("ab", 3)
    assert (events[-1].finish_reason, events[-1].stop_reason) == (FinishReason.STOP, ord("c"))


def test_a_stop_token_prints_what_was_held_back() -> None:
    events = run(RequestParams(9, stop=("abc",), stop_token_ids=frozenset({EOS})), [*b"ab", EOS])
    assert text(events) == "ab"


def test_a_stop_string_ends_with_stop_even_on_the_last_token_allowed() -> None:
    events = run(RequestParams(3, stop=("bc",)), "abcd")
    assert text(events) == "a"
    assert (events[-1].finish_reason, events[-1].stop_reason) == (FinishReason.STOP, "bc")


@pytest.mark.parametrize(("min_tokens", "printed"), [(2, "a"), (3, "aba"), (4, "aba"), (5, "ababa")])
def test_stop_strings_wait_for_min_tokens(min_tokens: int, printed: str) -> None:
    params = RequestParams(9, sampling=SamplingParams(min_tokens=min_tokens), stop=("b",))
    assert text(run(params, "ababab")) == printed


def test_half_a_character_at_the_end_is_not_swallowed() -> None:
    assert text(run(RequestParams(2), list("a😀".encode()))) == "a\ufffd"


def test_a_request_ends_once() -> None:
    request = Request(Submission("id", (1,), RequestParams(1)), 0, BYTES, arrival_time=0.0)
    request.end(FinishReason.ABORT)
    with pytest.raises(AssertionError, match="ends once"):
        request.end(FinishReason.ERROR)
