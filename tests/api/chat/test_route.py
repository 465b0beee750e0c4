"""POST /v1/chat/completions, not streamed: messages through the template, and the shapes of the answer."""

import json

import pytest

from app.api.schemas.chat import ChatCompletion
from tests.api.api_parts import asking, build, events_of, served_model
from tests.fakes import FakeRunner, says

PATH = "/v1/chat/completions"
USER = {"role": "user", "content": "hi"}


def prompt_seen_by(runner: FakeRunner) -> str:
    return b"".join(bytes(chunk.token_ids) for batch in runner.batches for chunk in batch.chunks).decode()


async def chat(app, body) -> dict:
    async with asking(app) as client:
        answer = await client.post(PATH, json=body)
        assert answer.status_code == 200, answer.text
        assert ChatCompletion.model_validate(answer.json())
        return answer.json()


async def test_the_whole_answer():
    app = build(FakeRunner(says("Hé!")), served=served_model(fingerprint="fp_fake"))

    answer = await chat(app, {"model": "fake", "messages": [USER]})

    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer.pop("timings")["predicted_n"] == 5
    assert answer == {
        "object": "chat.completion",
        "model": "fake",
        "system_fingerprint": "fp_fake",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hé!", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
                "token_ids": None,
            }
        ],
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 5,
            "total_tokens": 25,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


async def test_without_a_limit_the_answer_may_fill_the_context():
    answer = await chat(build(), {"messages": [USER]})

    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 128


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([USER], "user: hi\nassistant: "),
        ([{"role": "developer", "content": "be"}, USER], "system: be\nuser: hi\nassistant: "),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            "user: a\nb\nassistant: ",
        ),
        (
            [{"role": "assistant", "content": "", "tool_calls": None, "refusal": None}, USER],
            "assistant: \nuser: hi\nassistant: ",
        ),
    ],
)
async def test_messages_reach_the_model_through_its_template(messages, prompt):
    runner = FakeRunner()

    await chat(build(runner), {"messages": messages, "max_tokens": 1})

    assert prompt_seen_by(runner) == prompt


async def test_what_the_template_says_against_the_messages_is_told():
    async with asking(build()) as client:
        answer = await client.post(PATH, json={"messages": [USER, {"role": "assistant", "content": "ho"}]})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"
    assert "the last message must be the user's" in answer.json()["error"]["message"]


async def test_a_model_without_a_template_does_not_chat():
    async with asking(build(served=served_model(chat_template=None))) as client:
        answer = await client.post(PATH, json={"messages": [USER]})

    assert answer.status_code == 400
    assert "/v1/completions" in answer.json()["error"]["message"]


async def test_logprobs_name_text_and_bytes_of_each_token():
    body = {"messages": [USER], "logprobs": True, "top_logprobs": 2, "max_tokens": 2}

    answer = await chat(build(FakeRunner(says("é"))), body)

    entry = {
        "token": "\ufffd",
        "logprob": -0.5,
        "bytes": [0xC3],
        "top_logprobs": [
            {"token": "\ufffd", "logprob": -0.5, "bytes": [0xC3]},
            {"token": "\ufffd", "logprob": -1.5, "bytes": [0xC4]},
        ],
    }
    assert answer["choices"][0]["logprobs"]["content"][0] == entry
    assert len(answer["choices"][0]["logprobs"]["content"]) == 2
    assert answer["choices"][0]["logprobs"]["refusal"] is None


async def test_logprobs_alone_name_no_alternatives():
    answer = await chat(build(FakeRunner(says("a"))), {"messages": [USER], "logprobs": True})

    assert [entry["top_logprobs"] for entry in answer["choices"][0]["logprobs"]["content"]] == [[], []]


async def test_n_choices():
    body = {"messages": [USER], "n": 3, "max_tokens": 2, "return_token_ids": True}

    answer = await chat(build(FakeRunner(says("abc"))), body)

    assert [choice["message"]["content"] for choice in answer["choices"]] == ["ab"] * 3
    assert [choice["token_ids"] for choice in answer["choices"]] == [[97, 98]] * 3
    assert answer["usage"]["prompt_tokens"] == 20
    assert answer["usage"]["completion_tokens"] == 6


async def test_what_belongs_to_the_prompt_stands_beside_the_choices_once():
    body = {"messages": [USER], "n": 2, "max_tokens": 2, "prompt_logprobs": 1, "return_token_ids": True}
    async with asking(build(FakeRunner(says("ab")))) as client:
        whole = (await client.post(PATH, json=body)).json()
        streamed = (await client.post(PATH, json=body | {"stream": True})).text
    chunks = [json.loads(event) for event in events_of(streamed) if event != "[DONE]"]

    assert whole["prompt_token_ids"] == list(b"user: hi\nassistant: ")
    assert len(whole["prompt_logprobs"]) == 20
    for name in ("prompt_token_ids", "prompt_logprobs"):
        assert [chunk[name] for chunk in chunks if name in chunk] == [whole[name]]
        assert not any(name in choice for chunk in [whole, *chunks] for choice in chunk["choices"])
