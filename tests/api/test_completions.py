"""POST /v1/completions, not streamed: every kind of prompt, every field that shapes the answer."""

import asyncio
import json
import threading
from dataclasses import replace

import pytest

from app.api.schemas.completions import Completion
from app.engine.engine import Engine
from app.engine.request import RequestParams
from model.batch import Batch, SamplingParams, StepOutput
from tests.api.api_parts import WithBos, asking, build, build_with_engine, events_of, served_model
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
    timings = answer.pop("timings")
    assert answer == {
        "object": "text_completion",
        "model": "fake",
        "system_fingerprint": "fp_fake",
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
    assert (timings["prompt_n"], timings["predicted_n"], timings["kv_blocks"], timings["kv_bytes"]) == (3, 5, 2, 64)
    assert all(timings[name] >= 0 for name in ("queue_ms", "prompt_ms", "predicted_ms"))


async def test_timings_are_left_out_where_they_are_declined():
    assert "timings" not in await complete(build(), {"prompt": "a", "timings": False})


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


async def test_a_prompt_may_be_only_read():
    runner = FakeRunner()
    answer = await complete(build(runner), {"prompt": "abc", "max_tokens": 0})

    assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == ("", "length")
    assert answer["usage"]["completion_tokens"] == 0
    assert not any(chunk.samples for batch in runner.batches for chunk in batch.chunks)


async def test_a_prompt_that_fills_the_context_can_still_be_read():
    answer = await complete(build(), {"prompt": "a" * 128, "max_tokens": 0})

    assert answer["usage"]["total_tokens"] == 128


@pytest.mark.parametrize("prompt", ["abc", [97, 98, 99], [[97, 98, 99]]])
async def test_an_echo_is_the_beginning_of_the_text(prompt):
    body = {"prompt": prompt, "max_tokens": 9, "echo": True, "return_token_ids": True}
    answer = await complete(build(FakeRunner(says("de"))), body)

    choice = answer["choices"][0]
    assert (choice["text"], choice["logprobs"]) == ("abcde", None)
    assert choice["prompt_token_ids"] == [97, 98, 99]
    assert choice["token_ids"] == [100, 101, EOS]


@pytest.mark.parametrize("max_tokens", [0, 2])
async def test_an_echo_with_logprobs_scores_the_prompt(max_tokens):
    """In FakeRunner the token at position p of a prompt has -p / 2, and the ids behind it follow by 1 less each."""
    body = {"prompt": [[97, 98], [99, 0xC3, 0xA9]], "max_tokens": max_tokens, "echo": True, "logprobs": 2}
    answer = await complete(build(FakeRunner(says("xy")), served=served_model()), body)

    first, second = (choice["logprobs"] for choice in answer["choices"])
    told = ["x", "y"][:max_tokens]
    assert first["tokens"] == ["a", "b", *told]
    assert first["token_logprobs"] == [None, -0.5, *[-0.5] * max_tokens]
    assert first["top_logprobs"][:2] == [None, {"b": -0.5, "c": -1.5}]
    assert first["text_offset"] == [0, 1, 2, 3][: 2 + max_tokens]
    assert second["tokens"] == ["c", "\ufffd", "\ufffd", *told]
    assert second["token_logprobs"][:3] == [None, -0.5, -1.0]
    assert second["text_offset"] == [0, 1, 1, 2, 3][: 3 + max_tokens]
    assert [choice["text"] for choice in answer["choices"]] == ["ab" + "".join(told), "cé" + "".join(told)]


def loglikelihood(choice: dict, num_context_tokens: int) -> tuple[float, bool]:
    """What lm-evaluation-harness makes of a choice: it asks for one token more than it needs."""
    of_tokens = choice["logprobs"]["token_logprobs"][num_context_tokens:-1]
    tops = choice["logprobs"]["top_logprobs"][num_context_tokens:-1]
    return sum(of_tokens), all(logprob == max(top.values()) for logprob, top in zip(of_tokens, tops, strict=True))


async def test_an_evaluation_harness_finds_its_loglikelihoods():
    body = {
        "model": "fake",
        "prompt": [[1, 2, 3, 4, 5], [7, 8, 9]],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    first, second = (await complete(build(), body))["choices"]

    assert loglikelihood(first, 3) == (-1.5 - 2.0, True)
    assert loglikelihood(second, 1) == (-0.5 - 1.0, True)


async def test_an_echo_leaves_out_what_was_put_before_the_text():
    app = build(FakeRunner(says("c")), served=served_model(tokenizer=WithBos()))
    answer = await complete(app, {"prompt": "ab", "echo": True, "logprobs": 0})

    choice = answer["choices"][0]
    assert choice["text"] == "abc"
    assert choice["logprobs"]["tokens"] == ["<bos>", "a", "b", "c", "<eos>"]
    assert choice["logprobs"]["text_offset"] == [0, 0, 1, 2, 3]


async def test_special_tokens_before_a_text_can_be_declined():
    app = build(served=served_model(tokenizer=WithBos()))
    body = {"prompt": "ab", "max_tokens": 1}

    assert (await complete(app, body))["usage"]["prompt_tokens"] == 3
    app = build(served=served_model(tokenizer=WithBos()))
    assert (await complete(app, body | {"add_special_tokens": False}))["usage"]["prompt_tokens"] == 2


async def test_log_probabilities_of_the_prompt_come_by_token_id():
    answer = await complete(build(), {"prompt": "abc", "max_tokens": 1, "prompt_logprobs": 2, "n": 2})

    for choice in answer["choices"]:
        assert choice["logprobs"] is None
        assert choice["prompt_logprobs"] == [
            None,
            {
                "98": {"logprob": -0.5, "rank": 1, "decoded_token": "b"},
                "99": {"logprob": -1.5, "rank": 2, "decoded_token": "c"},
            },
            {
                "99": {"logprob": -1.0, "rank": 1, "decoded_token": "c"},
                "100": {"logprob": -2.0, "rank": 2, "decoded_token": "d"},
            },
        ]


async def test_each_kind_of_prompt_logprobs_has_as_many_as_it_asked_for():
    body = {"prompt": "ab", "max_tokens": 0, "echo": True, "logprobs": 1, "prompt_logprobs": 3}
    choice = (await complete(build(), body))["choices"][0]

    assert choice["logprobs"]["top_logprobs"] == [None, {"b": -0.5}]
    assert list(choice["prompt_logprobs"][1]) == ["98", "99", "100"]


class Scored(FakeRunner):
    """Candidate number n, told by its seed, has log-probabilities of -n."""

    def run(self, batch: Batch) -> StepOutput:
        results = super().run(batch).results
        seeds = [self.slots[chunk.slot].opened.sampling.seed for chunk in batch.chunks]
        return StepOutput(
            tuple(
                result if result.logprob is None else replace(result, logprob=-float(seed))
                for result, seed in zip(results, seeds, strict=True)
            )
        )


@pytest.mark.parametrize("logprobs", [None, 0])
async def test_the_best_of_more_candidates_are_the_answer(logprobs):
    body = {"prompt": [[1], [2]], "best_of": 4, "n": 2, "max_tokens": 3, "seed": 2**64 - 2, "logprobs": logprobs}
    answer = await complete(build(Scored()), body)  # seeds: 2**64 - 2, 2**64 - 1, 0, 1

    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 2
    assert answer["usage"]["completion_tokens"] == 2 * 4 * 3
    if logprobs is None:
        assert all(choice["logprobs"] is None for choice in answer["choices"])
    else:
        means = [choice["logprobs"]["token_logprobs"] for choice in answer["choices"]]
        assert means == [[0.0] * 3, [-1.0] * 3] * 2


async def test_a_bias_is_keyed_by_token_ids_as_text():
    runner = FakeRunner()
    await complete(build(runner), {"prompt": "a", "max_tokens": 1, "logit_bias": {"5": -100, "7": 2.5}})

    assert [sampling.logit_bias for sampling in sampling_seen_by(runner)] == [((5, -100.0), (7, 2.5))]


async def test_what_every_field_asks_for_reaches_the_engine(monkeypatch):
    seen: list[RequestParams] = []
    submit = Engine.submit

    def watch(engine, submissions):
        seen.extend(one.params for one in submissions)
        return submit(engine, submissions)

    monkeypatch.setattr(Engine, "submit", watch)
    app, _ = build_with_engine()
    body = {
        "prompt": "a",
        "max_tokens": 4,
        "stop": "zz",
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "bad_words": ["ab"],
        "dry_multiplier": 0.5,
        "allowed_token_ids": [5, 6],
        "prompt_logprobs": 3,
        "priority": -5,
        "timeout": 60,
    }
    answer = await complete(app, body)

    (params,) = seen
    assert (params.stop, params.includes_stop, params.prints_special_tokens) == (("zz",), True, True)
    assert params.bad_words == ((97, 98), (32, 97, 98))
    assert params.dry is not None
    assert params.dry.multiplier == 0.5
    assert (params.wants_prompt_logprobs, params.sampling.num_prompt_logprobs) == (True, 3)
    assert (params.priority, params.timeout_s) == (-5, 60)
    assert set(answer["choices"][0]["text"]) <= {"\x05", "\x06"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_is_cancelled_by_its_id_is_answered_with_what_there_is(stream):
    reached, may_go_on = threading.Event(), threading.Event()

    def next_token(token_ids, num_prompt_tokens):
        if len(token_ids) - num_prompt_tokens == 2:
            reached.set()
            assert may_go_on.wait(10)
        return 97

    async with asking(build(FakeRunner(next_token))) as client:
        body = {"prompt": "x", "max_tokens": 50, "stream": stream}
        answering = asyncio.create_task(client.post(PATH, json=body, headers={"x-request-id": "mine"}))
        await asyncio.to_thread(reached.wait, 10)
        cancelling = asyncio.create_task(client.post("/v1/requests/mine/cancel"))
        await asyncio.sleep(0.05)
        may_go_on.set()
        assert (await cancelling).status_code == 200
        answer = await answering

    assert answer.status_code == 200
    *_, last = [json.loads(event) for event in events_of(answer.text)[:-1]] if stream else [answer.json()]
    assert last["choices"][0]["finish_reason"] == "abort"
