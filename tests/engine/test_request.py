from dataclasses import replace

import pytest

from app.engine.request import PRIORITY_S, FinishReason, Request, RequestParams, Submission, Timings, TokenEvent
from model.batch import ChunkResult, SamplingParams, TargetLogprob
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


def test_a_stop_that_is_included_is_printed_and_special_tokens_only_where_wanted() -> None:
    included = RequestParams(9, stop=("bc",), stop_token_ids=frozenset({EOS, ord("x")}), includes_stop=True)
    assert text(run(included, "abcd")) == "abc"
    assert text(run(included, "abx")) == "abx"
    assert text(run(included, [*b"ab", EOS])) == "ab"
    assert text(run(replace(included, prints_special_tokens=True), [*b"ab", EOS])) == "ab<eos>"
    assert text(run(replace(included, prints_special_tokens=True, includes_stop=False), [*b"ab", EOS])) == "ab"


def test_targets_are_what_follows_in_the_prompt_and_each_comes_once() -> None:
    params = RequestParams(4, wants_prompt_logprobs=True)
    request = Request(Submission("id", (10, 11, 12, 13, 14), params), 0, BYTES, arrival_time=0.0)
    assert request.targets(0, 3) == (11, 12, 13)
    event = request.read_prompt(0, ChunkResult(targets=tuple(TargetLogprob(-t) for t in (11.0, 12.0, 13.0))))
    assert event is not None
    assert [target.logprob for target in event.prompt_logprobs] == [-11.0, -12.0, -13.0]
    assert request.targets(0, 2) == (), "set back, and read again in other chunks: known"
    assert request.targets(2, 3) == (13, 14), "one is known, one is new; behind the last comes no prompt"
    event = request.read_prompt(2, ChunkResult(targets=(TargetLogprob(-13.0), TargetLogprob(-14.0))))
    assert event is not None
    assert [target.logprob for target in event.prompt_logprobs] == [-14.0]
    assert request.targets(0, 5) == ()
    assert request.read_prompt(0, ChunkResult()) is None


def test_the_last_event_says_where_the_time_went() -> None:
    request = Request(Submission("id", (1,), RequestParams(9)), 0, BYTES, arrival_time=10.0)
    request.admission_time, request.first_token_time, request.last_token_time = 11.0, 13.0, 16.0
    request.max_blocks = 3
    token, ended = TokenEvent(0, token_id=1), TokenEvent(0, finish_reason=FinishReason.ABORT)
    assert request.last(token, 17.0, 100).timings == Timings(1.0, 2.0, 4.0, 3, 300)
    assert request.last(ended, 17.0, 100).timings == Timings(1.0, 2.0, 3.0, 3, 300), "to the last token, not to the end"


def test_a_request_that_never_ran_was_in_the_queue_all_the_time() -> None:
    request = Request(Submission("id", (1,), RequestParams(9)), 0, BYTES, arrival_time=10.0)
    assert request.last(TokenEvent(0), 17.0, 100).timings == Timings(7.0, 0.0, 0.0, 0, 0)
    request.admission_time = 12.0
    assert request.last(TokenEvent(0), 17.0, 100).timings == Timings(2.0, 5.0, 0.0, 0, 0)


def test_priority_is_worth_a_time_of_waiting() -> None:
    def turn(arrival_time: float, priority: int) -> float:
        return Request(Submission("id", (1,), RequestParams(9, priority=priority)), 0, BYTES, arrival_time).turn

    assert turn(0.0, 0) < turn(1.0, 0)
    assert turn(1.0, 0) < turn(0.0, 1) < turn(PRIORITY_S + 1.0, 0)
    assert turn(PRIORITY_S - 1.0, -1) < turn(0.0, 0)


def test_a_request_ends_once() -> None:
    request = Request(Submission("id", (1,), RequestParams(1)), 0, BYTES, arrival_time=0.0)
    request.end(FinishReason.ABORT)
    with pytest.raises(AssertionError, match="ends once"):
        request.end(FinishReason.ERROR)
