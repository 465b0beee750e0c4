import pytest

from app.engine.choice import Choice, Choices
from app.engine.request import Dry, Request, RequestParams, Submission
from tests.fakes import BYTES, VOCAB_SIZE, allows, bits


class Unused:
    """A constraint that nobody asks: its masks come from the test."""

    def allowed(self) -> bytes:
        raise AssertionError

    def accept(self, token_id: int) -> None:
        raise AssertionError


def make_request(params: RequestParams, prompt: tuple[int, ...] = (1, 2)) -> Request:
    return Request(Submission("id", prompt, params), 0, BYTES, arrival_time=0.0)


def allowed_tokens(mask: bytes | None) -> set[int]:
    assert mask is not None
    assert len(mask) == -(-VOCAB_SIZE // 8)
    return {token_id for token_id in range(8 * len(mask)) if allows(mask, token_id)}


def test_a_constraint_waits_for_its_mask_which_is_passed_on_as_it_is() -> None:
    choice = Choice(make_request(RequestParams(4, constraint=Unused())))
    assert not choice.is_ready
    choice.mask = bits(3, 4)
    assert choice.is_ready
    assert choice.allowed(VOCAB_SIZE) is choice.mask


def test_bad_words_leave_all_other_tokens_of_the_vocabulary() -> None:
    choice = Choice(make_request(RequestParams(4, bad_words=((2, 9), (200,), (7, 8)))))
    assert choice.is_ready
    assert allowed_tokens(choice.allowed(VOCAB_SIZE)) == set(range(VOCAB_SIZE)) - {9, 200}


def test_where_no_bad_word_is_near_there_is_no_mask() -> None:
    choice = Choice(make_request(RequestParams(4, bad_words=((7, 8),))))
    assert choice.allowed(VOCAB_SIZE) is None


def test_a_mask_and_bad_words_are_combined_and_the_mask_stays_as_it_was() -> None:
    choice = Choice(make_request(RequestParams(4, constraint=Unused(), bad_words=((2, 9), (200,)))))
    choice.mask = bits(8, 9, 10)
    assert allowed_tokens(choice.allowed(VOCAB_SIZE)) == {8, 10}
    assert choice.mask == bits(8, 9, 10)
    choice.mask = bits(8, 9)[:2]  # shorter than the vocabulary: what is beyond its end is not allowed anyway
    assert choice.allowed(VOCAB_SIZE) == bits(8)[:2]


def test_a_mask_that_allows_nothing_is_no_free_choice() -> None:
    choice = Choice(make_request(RequestParams(4, constraint=Unused(), bad_words=((200,),))))
    choice.mask = b""
    assert choice.allowed(VOCAB_SIZE) == b""


def test_repetitions_become_biases() -> None:
    dry = Dry(multiplier=0.5, allowed_length=1)
    assert Choice(make_request(RequestParams(4, dry=dry), (1, 2, 1))).biases() == ((2, -0.5),)
    assert Choice(make_request(RequestParams(4))).biases() == ()


@pytest.mark.parametrize(
    ("params", "is_kept"),
    [
        (RequestParams(4), False),
        (RequestParams(4, bad_words=((1,),)), True),
        (RequestParams(4, dry=Dry(1.0)), True),
        (RequestParams(4, constraint=Unused()), True),
    ],
)
def test_only_requests_that_need_a_choice_have_one(params: RequestParams, is_kept: bool) -> None:
    choices, request = Choices(None), make_request(params)
    choices.add(request)
    assert (choices.get(request) is not None) == is_kept
    choices.drop(request)
    assert choices.get(request) is None


def test_with_the_next_token_the_old_mask_is_gone_and_the_next_is_asked_for() -> None:
    asked: list[int | None] = []
    choices = Choices(lambda request, token_id: asked.append(token_id))
    request = make_request(RequestParams(4, constraint=Unused()))
    choices.add(request)
    choices.move_on(request, None)
    choices.take(request, bits(5))
    choices.move_on(request, 5)
    choice = choices.get(request)
    assert choice is not None
    assert (asked, choice.is_ready) == ([None, 5], False)


def test_a_mask_that_comes_too_late_is_dropped() -> None:
    choices, request = Choices(None), make_request(RequestParams(4, constraint=Unused()))
    choices.take(request, bits(5))
    assert choices.get(request) is None
