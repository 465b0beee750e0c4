"""openai-python as its users use it, over a real socket."""

import threading
import time

import openai
import pytest

from tests.api.api_parts import build
from tests.fakes import FakeRunner, fails_behind, says
from tests.live_server import serve

TEXT = "Grüße, 世界! 👋"
KEY = "sk-of-the-test"
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def url():
    runner = FakeRunner(says(TEXT), before_step=lambda _: time.sleep(0.001))
    with serve(build(runner, api_keys=[KEY])) as server:
        yield server.url + "/v1"


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=url, api_key=KEY, timeout=20, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(url):
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, timeout=20, max_retries=0) as client:
        yield client


def test_a_chat(client):
    answer = client.chat.completions.create(model="fake", messages=MESSAGES, n=2, logprobs=True, top_logprobs=2)

    assert [choice.message.content for choice in answer.choices] == [TEXT, TEXT]
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "stop"]
    entries = answer.choices[0].logprobs.content
    assert len(entries) == len(TEXT.encode()) + 1
    assert bytes(byte for entry in entries[:-1] for byte in entry.bytes).decode() == TEXT
    assert [len(entry.top_logprobs) for entry in entries[:-2]] == [2] * (len(entries) - 2)
    assert answer.usage.completion_tokens == 2 * len(entries)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_chat(client):
    stream = client.chat.completions.create(
        model="fake", messages=MESSAGES, stream=True, n=2, stream_options={"include_usage": True}, logprobs=True
    )
    *chunks, last = list(stream)

    for index in (0, 1):
        choices = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert [choice.delta.role for choice in choices] == ["assistant"] + [None] * (len(choices) - 1)
        assert "".join(choice.delta.content or "" for choice in choices) == TEXT
        assert [choice.finish_reason for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
        assert sum(len(choice.logprobs.content) for choice in choices) == len(TEXT.encode()) + 1
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage.completion_tokens == 2 * (len(TEXT.encode()) + 1)


def test_the_message_of_an_answer_can_be_sent_back(client):
    first = client.chat.completions.create(model="fake", messages=MESSAGES)
    then = client.chat.completions.create(model="fake", messages=[*MESSAGES, first.choices[0].message, *MESSAGES])

    assert then.choices[0].message.content == TEXT


def test_a_completion(client):
    answer = client.completions.create(
        model="fake", prompt=["a", "b"], max_tokens=50, logprobs=1, echo=False, best_of=1
    )

    assert [choice.text for choice in answer.choices] == [TEXT, TEXT]
    assert len(answer.choices[0].logprobs.token_logprobs) == len(TEXT.encode()) + 1
    assert answer.choices[0].logprobs.text_offset[:3] == [0, 1, 2]


async def test_a_streamed_completion(async_client):
    stream = await async_client.completions.create(
        model="fake", prompt=[1, 2], max_tokens=50, stream=True, extra_body={"return_token_ids": True, "top_k": 5}
    )
    chunks = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    token_ids = [token_id for chunk in chunks for token_id in chunk.choices[0].token_ids]
    assert bytes(token_ids[:-1]).decode() == TEXT
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_an_async_chat(async_client):
    answer = await async_client.chat.completions.create(model="fake", messages=MESSAGES, max_completion_tokens=5)

    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5
    assert answer.id == f"chatcmpl-{answer._request_id}"


def test_models(client):
    assert [model.id for model in client.models.list()] == ["fake", "also-fake"]
    assert client.models.retrieve("also-fake").id == "also-fake"


def test_errors_come_as_the_clients_own(client, url):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="other", messages=MESSAGES)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="fake", messages=MESSAGES, temperature=3)
    assert wrong.value.param == "temperature"
    with (
        openai.OpenAI(base_url=url, api_key="other", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as unauthorised,
    ):
        stranger.models.list()
    assert unauthorised.value.code == "invalid_api_key"


def test_a_failure_in_a_stream_is_raised_at_its_place():
    may_fail = threading.Event()
    with (
        serve(build(FakeRunner(fails_behind(3, may_fail)))) as server,
        openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0) as client,
    ):
        stream = iter(client.completions.create(model="fake", prompt="a", stream=True))
        assert next(stream).choices[0].text.startswith("a")
        may_fail.set()
        with pytest.raises(openai.APIError, match="The model failed"):
            list(stream)
