"""POST /v1/completions, not streamed: every kind of prompt, every field that shapes the answer."""

from dataclasses import replace

import pytest

from app.api.schemas.completions import Completion
from model.batch import SamplingParams
from tests.api.api_parts import WithBos, asking, build, served_model
from tests.fakes import EOS, FakeRunner, says

PATH = "/v1/completions"


async def complete(app, body) -> dict:
    async with asking(app) as client:
        answer = await client.post(PATH, json=body)
        assert answer.status_code == 200, answer.text
        assert Completion.model_validate(answer.json())
        return answer.json()


def sampling_seen_by(runner: FakeRunner) -> list[SamplingParams]:
    return [opened.sampling for batch in runner.batches for opened in batch.opened]


async def test_the_whole_answer():
    app = build(FakeRunner(says("Hé!")))
    body = {"model": "also-fake", "prompt": "abc", "max_tokens": 9, "user": "me"}

    answer = await complete(app, body)

    assert answer.pop("id").startswith("cmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "object": "text_completion",
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "text": "Hé!",
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
                "token_ids": None,
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


@pytest.mark.parametrize(
    ("prompt", "outputs"),
    [
        ("\x01\x02", [[3, 6]]),
        (["\x01\x02", "\x05"], [[3, 6], [5, 10]]),
        ([1, 2], [[3, 6]]),
        ([[1, 2], [5], [7]], [[3, 6], [5, 10], [7, 14]]),
    ],
)
async def test_each_prompt_has_its_own_answer_in_order(prompt, outputs):
    answer = await complete(build(), {"prompt": prompt, "max_tokens": 2, "return_token_ids": True})

    assert [choice["token_ids"] for choice in answer["choices"]] == outputs
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(outputs)))


async def test_choices_of_a_prompt_lie_side_by_side_and_its_tokens_count_once():
    runner = FakeRunner()
    body = {"prompt": [[1, 2], [5, 5, 5]], "n": 3, "max_tokens": 2, "return_token_ids": True, "seed": 7}

    answer = await complete(build(runner), body)

    assert [choice["token_ids"] for choice in answer["choices"]] == [[3, 6]] * 3 + [[15, 30]] * 3
    assert answer["usage"]["prompt_tokens"] == 5
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["usage"]["total_tokens"] == 17
    assert sorted(sampling.seed for sampling in sampling_seen_by(runner)) == [7, 7, 8, 8, 9, 9]


async def test_sixteen_tokens_unless_more_are_asked_for():
    assert (await complete(build(), {"prompt": "a"}))["usage"]["completion_tokens"] == 16
    assert (await complete(build(), {"prompt": "a", "max_tokens": 20}))["usage"]["completion_tokens"] == 20
    assert (await complete(build(), {"prompt": "a", "max_completion_tokens": 3}))["usage"]["completion_tokens"] == 3


async def test_the_default_is_no_more_than_there_is_room_for():
    answer = await complete(build(), {"prompt": "a" * 125})

    assert answer["usage"]["completion_tokens"] == 3
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("body", [{"prompt": "a" * 128}, {"prompt": "a" * 1000}, {"prompt": "a", "max_tokens": 128}])
async def test_what_cannot_fit_is_refused(body):
    async with asking(build()) as client:
        answer = await client.post(PATH, json=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


async def test_an_empty_text_is_a_prompt_only_where_texts_begin_with_a_token():
    with_bos = served_model(tokenizer=WithBos())

    assert (await complete(build(served=with_bos), {"prompt": ""}))["usage"]["prompt_tokens"] == 1
    async with asking(build()) as client:
        answer = await client.post(PATH, json={"prompt": ""})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"


@pytest.mark.parametrize(
    ("changes", "text", "stop_reason", "num_tokens"),
    [
        ({}, "one two three", None, 14),
        ({"stop": " t"}, "one", " t", 5),
        ({"stop": ["three", "two"]}, "one ", "two", 7),
        ({"stop_token_ids": [ord("w")]}, "one t", ord("w"), 6),
        ({"stop_token_ids": [EOS]}, "one two three", None, 14),
        ({"stop_token_ids": [EOS], "ignore_eos": True}, "one two three", EOS, 14),
    ],
)
async def test_what_ends_a_text_is_told(changes, text, stop_reason, num_tokens):
    answer = await complete(build(FakeRunner(says("one two three"))), {"prompt": "a", "max_tokens": 50} | changes)

    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == (text, "stop", stop_reason)
    assert answer["usage"]["completion_tokens"] == num_tokens


async def test_ignore_eos_goes_on_to_the_last_token_asked_for():
    answer = await complete(build(FakeRunner(says("ab"))), {"prompt": "a", "max_tokens": 9, "ignore_eos": True})

    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 9


async def test_the_models_own_defaults_hold_until_the_request_says_otherwise():
    defaults = SamplingParams(temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.1)
    runner = FakeRunner()
    app = build(runner, served=served_model(defaults=defaults))

    async with asking(app) as client:
        for body in ({}, {"temperature": 0, "top_k": -1, "top_p": 1, "repetition_penalty": 1.0}):
            assert (await client.post(PATH, json={"prompt": "a", "max_tokens": 1, "seed": 3} | body)).status_code == 200

    assert sampling_seen_by(runner) == [replace(defaults, seed=3), SamplingParams(temperature=0.0, seed=3)]


async def test_logprobs_have_one_entry_for_each_token():
    app = build(FakeRunner(says("aé")))

    answer = await complete(app, {"prompt": "x", "max_tokens": 9, "logprobs": 2})

    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["a", "\ufffd", "\ufffd", "<eos>"],
        "token_logprobs": [-0.5] * 4,
        "top_logprobs": [
            {"a": -0.5, "b": -1.5},
            {"\ufffd": -0.5},
            {"\ufffd": -0.5},
            {"<eos>": -0.5, "<bos>": -1.5},
        ],
        "text_offset": [0, 1, 1, 2],
    }


async def test_logprobs_zero_are_those_of_the_chosen_tokens():
    answer = await complete(build(FakeRunner(says("a"))), {"prompt": "x", "max_tokens": 9, "logprobs": 0})

    assert answer["choices"][0]["logprobs"]["top_logprobs"] == [{"a": -0.5}, {"<eos>": -0.5}]
