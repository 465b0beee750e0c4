"""What is worked out of a request before it is run: words, breakers, allowed tokens, the form of a text."""

import pytest

from app.api.errors import InvalidRequest
from app.api.schemas.completions import CompletionRequest
from app.api.steering import AllowedTokens, BothAllow, Steering, steering_of, tokens_with
from app.engine.grammars.grammar import Grammar, GrammarKind
from app.engine.request import Dry
from tests.api.api_parts import WithBos, served_model
from tests.fakes import EOS, VOCAB_SIZE


async def steering(**fields) -> Steering:
    return await steering_of(CompletionRequest(prompt="a", **fields), served_model(tokenizer=WithBos()))


def allowed_by(mask: bytes) -> set[int]:
    return {token_id for token_id in range(8 * len(mask)) if mask[token_id // 8] >> token_id % 8 & 1}


async def test_most_requests_steer_nothing():
    assert (await steering(allowed_token_ids=[], bad_words=[])).new_constraint() is None
    assert (await steering()).bad_words == ()
    assert (await steering()).dry is None


async def test_a_word_is_banned_at_the_start_and_behind_a_space():
    assert (await steering(bad_words=["ab", " c", " ab"])).bad_words == (
        tuple(b"ab"),
        tuple(b" ab"),
        tuple(b"c"),
        tuple(b" c"),
    )


async def test_the_allowed_tokens_are_a_mask():
    constraint = (await steering(allowed_token_ids=[0, 9, EOS])).new_constraint()

    assert allowed_by(constraint.allowed()) == {0, 9, EOS}
    constraint.accept(9)
    assert allowed_by(constraint.allowed()) == {0, 9, EOS}


async def test_dry_has_llama_cpps_defaults():
    assert (await steering(dry_multiplier=0.8)).dry == Dry(0.8, 1.75, 2, -1, frozenset(map(ord, '\n:"*')))


async def test_dry_takes_what_it_is_given():
    fields = {"dry_base": 2, "dry_allowed_length": 4, "dry_penalty_last_n": 64, "dry_sequence_breakers": ["a", "<"]}

    assert (await steering(dry_multiplier=1, **fields)).dry == Dry(1, 2, 4, 64, frozenset({97, ord("<"), 256, 257}))


@pytest.mark.parametrize("fields", [{"dry_multiplier": 0}, {"dry_base": 2.0}])
async def test_dry_is_off_without_a_multiplier(fields):
    assert (await steering(**fields)).dry is None


async def test_dry_is_off_where_nothing_is_searched():
    assert (await steering(dry_multiplier=1, dry_penalty_last_n=0)).dry is None


def test_a_breaker_is_found_within_tokens_and_as_bytes():
    token_bytes = [b"a", b"b\n", b"\n\n", "é".encode(), "é".encode()[:1], b"n"]

    assert tokens_with(["\n", "é"], token_bytes) == {1, 2, 3}
    assert tokens_with([], token_bytes) == set()


async def test_allowed_tokens_beyond_the_vocabulary_are_refused():
    with pytest.raises(InvalidRequest, match="allowed_token_ids: token ids must be below 258"):
        await steering(allowed_token_ids=[VOCAB_SIZE])


def test_two_constraints_allow_what_both_do_and_hear_of_every_token():
    heard = []

    class Listening(AllowedTokens):
        def accept(self, token_id: int) -> None:
            heard.append(token_id)

    both = BothAllow(Listening([1, 2, 200], 258), Listening([2, 3], 64))

    assert allowed_by(both.allowed()) == {2}
    both.accept(2)
    assert heard == [2, 2]


async def test_each_choice_follows_a_grammar_of_its_own():
    steered = await steering(structured_outputs={"choice": ["ab", "cd"]})
    one, other = steered.new_constraint(), steered.new_constraint()

    one.accept(ord("a"))

    assert allowed_by(one.allowed()) == {ord("b")}
    assert allowed_by(other.allowed()) == {ord("a"), ord("c")}


async def test_a_grammar_and_allowed_tokens_hold_together():
    steered = await steering(structured_outputs={"regex": "[a-z]"}, allowed_token_ids=[ord("b"), ord("1")])

    assert allowed_by(steered.new_constraint().allowed()) == {ord("b")}


async def test_the_grammar_of_tools_stands_in_for_the_bodys():
    body = CompletionRequest(prompt="a", response_format={"type": "json_object"})
    steered = await steering_of(body, served_model(), Grammar.of_choices(["x"]))

    assert allowed_by(steered.new_constraint().allowed()) == {ord("x")}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"structured_outputs": {"regex": "("}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "no grammar"}}, "structured_outputs"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "no"}}}},
            "response_format",
        ),
        ({"response_format": {"type": "json_object"}, "min_tokens": 2}, "min_tokens"),
        ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos"),
    ],
)
async def test_a_form_that_cannot_be_followed_is_refused_by_its_field(fields, param):
    with pytest.raises(InvalidRequest) as caught:
        await steering(**fields)

    assert caught.value.param == param


async def test_a_grammar_of_tools_that_does_not_compile_is_theirs():
    with pytest.raises(InvalidRequest) as caught:
        await steering_of(CompletionRequest(prompt="a"), served_model(), Grammar(GrammarKind.REGEX, "("))

    assert caught.value.param == "tools"
