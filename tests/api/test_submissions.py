"""What the engine is asked to run, from what the client wrote."""

import pytest

from app.api.errors import InvalidRequest
from app.api.prompts import check_prompts
from app.api.schemas.completions import CompletionRequest
from app.api.steering import AllowedTokens, Steering
from app.api.submissions import Origin, build_submissions
from app.engine.request import Submission
from model.batch import SamplingParams
from tests.api.api_parts import served_model
from tests.fakes import EOS


def submissions(*prompts: list[int], context: int = 128, **fields) -> list[Submission]:
    body = CompletionRequest(prompt=[list(prompt) for prompt in prompts], **fields)
    served = served_model(max_model_len=context)
    return build_submissions(body, prompts, Origin("r", "key-1"), served, lambda length: 100 - length, Steering())


def sampling(**fields) -> SamplingParams:
    return submissions([1], **fields)[0].params.sampling


def test_a_request_of_one_choice_keeps_its_name_and_others_are_numbered():
    assert [one.request_id for one in submissions([1])] == ["r"]
    assert [one.request_id for one in submissions([1], [2], n=2)] == ["r-0", "r-1", "r-2", "r-3"]
    assert {(one.call_id, one.owner) for one in submissions([1], [2], n=2)} == {("r", "key-1")}


def test_candidates_are_more_than_choices_and_are_scored():
    candidates = submissions([1], n=2, best_of=3)

    assert len(candidates) == 3
    assert [one.params.sampling.num_logprobs for one in candidates] == [0, 0, 0]
    assert [one.params.sampling.num_logprobs for one in submissions([1], n=2, best_of=2)] == [None, None]
    assert [one.params.sampling.num_logprobs for one in submissions([1], best_of=2, logprobs=3)] == [3, 3]


def test_the_default_number_of_tokens_depends_on_the_prompt():
    assert [one.params.max_tokens for one in submissions([1], [1, 1, 1])] == [99, 97]
    assert submissions([1] * 100)[0].params.max_tokens == 1  # too long: for the engine to refuse
    assert submissions([1], max_tokens=5)[0].params.max_tokens == 5
    assert submissions([1], max_tokens=0)[0].params.max_tokens == 0


def test_a_whole_answer_that_would_take_too_much_memory_is_refused_and_a_stream_is_not():
    large = {"context": 2**17, "n": 16, "max_tokens": 2**17}
    assert len(submissions([1], **large)) == 16
    with pytest.raises(InvalidRequest, match=r"stream: a whole answer may have 2097152 tokens"):
        submissions([1], [2], **large)
    with pytest.raises(InvalidRequest, match="set stream to true"):
        submissions([1], logprobs=1, **large)
    assert len(submissions([1], [2], logprobs=5, stream=True, **large)) == 32
    assert len(submissions([1], n=16, max_tokens=2**31 - 1)) == 16  # too long: for the engine to refuse


def test_choices_have_seeds_that_follow_each_other():
    assert [one.params.sampling.seed for one in submissions([1], [2], n=2, seed=5)] == [5, 6, 5, 6]


@pytest.mark.parametrize(("seed", "unsigned"), [(-1, 2**64 - 1), (-(2**63), 2**63), (2**64 - 1, 2**64 - 1)])
def test_a_seed_is_taken_as_64_bits(seed, unsigned):
    first, second = submissions([1], n=2, seed=seed)

    assert first.params.sampling.seed == unsigned
    assert second.params.sampling.seed == (unsigned + 1) % 2**64


def test_without_a_seed_every_prompt_of_every_request_has_another():
    seeds = {one.params.sampling.seed for _ in range(50) for one in submissions([1], [1])}

    assert len(seeds) == 100


def test_every_sampling_field_arrives():
    fields = {
        "temperature": 0.5,
        "top_p": 0.25,
        "min_p": 0.125,
        "top_k": 3,
        "typical_p": 0.75,
        "top_n_sigma": 1.5,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.25,
        "repetition_penalty": 1.5,
        "presence_penalty": -1.0,
        "frequency_penalty": 2.0,
        "seed": 9,
    }

    assert sampling(**fields, logprobs=4) == SamplingParams(**fields, num_logprobs=4)


def test_a_bias_is_added_to_each_token_named():
    assert sampling(logit_bias={5: -100, 7: 2.5}).logit_bias == ((5, -100.0), (7, 2.5))


def test_a_negative_sigma_is_off():
    assert sampling(top_n_sigma=-1).top_n_sigma == 0.0


@pytest.mark.parametrize(
    ("fields", "wants", "num_top"),
    [
        ({}, False, 0),
        ({"prompt_logprobs": 0}, True, 0),
        ({"prompt_logprobs": 4}, True, 4),
        ({"logprobs": 3}, False, 0),
        ({"logprobs": 3, "echo": True}, True, 3),
        ({"echo": True}, False, 0),
        ({"logprobs": 3, "echo": True, "prompt_logprobs": 5}, True, 5),
    ],
)
def test_the_prompt_is_scored_where_anything_wants_it(fields, wants, num_top):
    params = submissions([1], **fields)[0].params

    assert (params.wants_prompt_logprobs, params.sampling.num_prompt_logprobs) == (wants, num_top)


@pytest.mark.parametrize(("asked", "seen"), [(0, 0.0), (1e-300, 0.0), (9e-6, 0.0), (1e-5, 1e-5), (2, 2.0)])
def test_a_temperature_too_small_to_divide_by_is_greedy(asked, seen):
    assert sampling(temperature=asked).temperature == seen


@pytest.mark.parametrize("top_k", [-1, 0])
def test_top_k_has_two_ways_to_be_off(top_k):
    assert sampling(top_k=top_k).top_k == 0


def test_stop_tokens_are_those_of_the_model_and_those_asked_for():
    def in_force(**fields):
        return submissions([1], **fields)[0].params.stop_token_ids

    assert in_force() == {EOS}
    assert in_force(stop_token_ids=[5]) == {5, EOS}
    assert in_force(stop_token_ids=[5], ignore_eos=True) == {5}
    assert in_force(ignore_eos=True) == set()


def test_until_min_tokens_no_stop_token_is_chosen():
    assert sampling(min_tokens=3, stop_token_ids=[5]).suppressed_token_ids == (5, EOS)
    assert sampling(min_tokens=3, stop_token_ids=[5]).min_tokens == 3
    assert sampling(stop_token_ids=[5]).suppressed_token_ids == ()


def test_min_tokens_beyond_the_default_max_tokens_are_refused():
    with pytest.raises(InvalidRequest, match="min_tokens: must be at most max_tokens, which is 99"):
        submissions([1], min_tokens=100)


@pytest.mark.parametrize(("stop", "strings"), [("a", ("a",)), (["a", "b"], ("a", "b")), ([], ()), (None, ())])
def test_stop_is_a_string_or_a_list(stop, strings):
    assert submissions([1], stop=stop)[0].params.stop == strings


def test_token_ids_beyond_the_vocabulary_are_refused_by_field():
    with pytest.raises(InvalidRequest, match="stop_token_ids: token ids must be below 258"):
        submissions([1], stop_token_ids=[258])
    with pytest.raises(InvalidRequest, match="logit_bias: token ids must be below 258"):
        submissions([1], logit_bias={258: 1})
    with pytest.raises(InvalidRequest, match="prompt: token ids must be below 258"):
        check_prompts([[257], [258]], served_model())


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(InvalidRequest, match="prompt: must have at least one token"):
        check_prompts([[1], []], served_model())


def test_each_request_has_a_constraint_of_its_own():
    made = []

    def new_constraint() -> AllowedTokens:
        made.append(AllowedTokens([1], 258))
        return made[-1]

    body = CompletionRequest(prompt=[[1], [2]], n=2)
    origin, steering = Origin("r"), Steering(new_constraint=new_constraint)
    built = build_submissions(body, [[1], [2]], origin, served_model(), lambda _: 5, steering)

    assert [one.params.constraint for one in built] == made
    assert len(made) == 4
