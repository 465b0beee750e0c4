import pytest

from app.engine.errors import RequestTooLong
from app.engine.limits import Limits, refuse_too_long, room_for
from app.engine.request import RequestParams, Submission
from tests.fakes import FakeRunner

CONTEXT = FakeRunner(max_model_len=16, num_blocks=64, block_size=4).info
POOL = FakeRunner(max_model_len=128, num_blocks=3, block_size=4).info


def ask_for(num_prompt_tokens: int, max_tokens: int) -> Submission:
    return Submission("id", (1,) * num_prompt_tokens, RequestParams(max_tokens))


def test_limits_that_could_starve_prefill_are_refused() -> None:
    with pytest.raises(ValueError, match="max_num_batched_tokens"):
        Limits(max_num_seqs=9, max_num_batched_tokens=8)


def test_room_is_what_context_and_pool_leave() -> None:
    assert (room_for(CONTEXT, 5), room_for(POOL, 5), room_for(POOL, 13)) == (11, 7, -1)


def test_what_just_fits_is_let_in() -> None:
    for max_tokens in (0, 1, 9):
        refuse_too_long(CONTEXT, ask_for(16 - max_tokens, max_tokens))
        refuse_too_long(POOL, ask_for(12 - max_tokens, max_tokens))


def test_what_can_never_fit_is_refused_and_says_what_would() -> None:
    with pytest.raises(RequestTooLong, match="together 17; the context holds 16.*at most 3 tokens"):
        refuse_too_long(CONTEXT, ask_for(13, 4))
    with pytest.raises(RequestTooLong, match=r"together 17; the context holds 16\. Shorten the prompt\.$"):
        refuse_too_long(CONTEXT, ask_for(17, 0))
    with pytest.raises(RequestTooLong, match="the KV cache holds 12"):
        refuse_too_long(POOL, ask_for(9, 4))
