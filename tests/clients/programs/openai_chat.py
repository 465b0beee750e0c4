"""openai-python: chats, whole and streamed, sync and async."""

import asyncio

import openai

MESSAGES = [{"role": "user", "content": "Name three colours of autumn leaves."}]
PLAIN = {"messages": MESSAGES, "max_tokens": 24, "temperature": 0}
ENDING = PLAIN | {"extra_body": {"structured_outputs": {"regex": "[A-Z][a-z ,]{8,40}"}}}  # the helper takes no other


def _client(url):
    return openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=120)


def _async_client(url):
    return openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=120)


def a_whole_answer(url, model):
    answer = _client(url).chat.completions.create(model=model, **PLAIN)

    assert answer.id.startswith("chatcmpl-")
    assert (answer.model, answer.object) == (model, "chat.completion")
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.system_fingerprint


def a_stream_adds_up_to_the_whole(url, model):
    client = _client(url)
    whole = client.chat.completions.create(model=model, **PLAIN)
    *chunks, last = client.chat.completions.create(
        model=model, stream=True, stream_options={"include_usage": True}, **PLAIN
    )

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == [
        whole.choices[0].finish_reason
    ]
    assert last.choices == []
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert {chunk.id for chunk in chunks} == {last.id}


def the_streaming_helper_sees_the_same(url, model):
    client = _client(url)
    whole = client.chat.completions.create(model=model, logprobs=True, top_logprobs=2, **ENDING)
    with client.chat.completions.stream(model=model, logprobs=True, top_logprobs=2, **ENDING) as stream:
        events = list(stream)
        final = stream.get_final_completion()

    deltas = [event.delta for event in events if event.type == "content.delta"]
    assert "".join(deltas) == whole.choices[0].message.content == final.choices[0].message.content
    assert [event.content for event in events if event.type == "content.done"] == ["".join(deltas)]
    assert [len(event.content) for event in events if event.type == "logprobs.content.done"] == [
        whole.usage.completion_tokens
    ]
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason


def log_probabilities(url, model):
    answer = _client(url).chat.completions.create(model=model, logprobs=True, top_logprobs=5, n=2, **PLAIN)

    for choice in answer.choices:
        spoken = [entry for entry in choice.logprobs.content if entry.token != "<|im_end|>"]
        assert bytes(byte for entry in spoken for byte in entry.bytes).decode() == choice.message.content
        for entry in spoken:
            assert len(entry.top_logprobs) == 5
            assert entry.token in [top.token for top in entry.top_logprobs]
            assert entry.logprob == entry.top_logprobs[0].logprob <= 0
    assert answer.choices[0].message.content == answer.choices[1].message.content


def choices_of_a_stream_are_kept_apart(url, model):
    request = {"model": model, "messages": MESSAGES, "max_tokens": 16, "n": 3, "seed": 5, "temperature": 1}
    whole = _client(url).chat.completions.create(**request)
    texts = ["", "", ""]
    for chunk in _client(url).chat.completions.create(stream=True, **request):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""

    assert texts == [choice.message.content for choice in whole.choices]
    assert len(set(texts)) > 1


def the_answer_can_be_sent_back(url, model):
    client = _client(url)
    first = client.chat.completions.create(model=model, **PLAIN)
    messages = [*MESSAGES, first.choices[0].message, {"role": "user", "content": "And of spring?"}]
    then = client.chat.completions.create(model=model, messages=messages, max_tokens=8)

    assert then.usage.prompt_tokens > first.usage.prompt_tokens


def content_in_parts_is_the_same_prompt(url, model):
    parts = [{"role": "user", "content": [{"type": "text", "text": MESSAGES[0]["content"]}]}]
    client = _client(url)
    whole = client.chat.completions.create(model=model, **PLAIN)
    in_parts = client.chat.completions.create(model=model, **PLAIN | {"messages": parts})

    assert in_parts.choices[0].message.content == whole.choices[0].message.content
    assert in_parts.usage.prompt_tokens == whole.usage.prompt_tokens


def raw_responses_carry_the_request_id(url, model):
    client = _client(url)
    raw = client.chat.completions.with_raw_response.create(
        model=model, extra_headers={"x-request-id": "of-the-client"}, **PLAIN
    )

    assert raw.headers["x-request-id"] == "of-the-client"
    assert raw.parse().choices[0].message.content


def errors_are_the_clients_own(url, model):
    client = _client(url)
    for expected, request in {
        openai.NotFoundError: {"model": "other", "messages": MESSAGES},
        openai.BadRequestError: {"model": model, "messages": MESSAGES, "temperature": 3},
    }.items():
        try:
            client.chat.completions.create(**request)
        except expected as error:
            assert error.body["message"]  # noqa: PT017  # pytest is not here
        else:
            raise AssertionError(f"no {expected.__name__}")


async def many_at_once_give_what_each_gives_alone(url, model):
    async def ask(client, number):
        messages = [{"role": "user", "content": f"Say something about the number {number}."}]
        answer = await client.chat.completions.create(model=model, messages=messages, max_tokens=12, temperature=0)
        return answer.choices[0].message.content

    async with _async_client(url) as client:
        together = await asyncio.gather(*[ask(client, number) for number in range(8)])
        alone = [await ask(client, number) for number in range(8)]

    assert together == alone


async def an_async_stream_can_be_left(url, model):
    async with _async_client(url) as client:
        stream = await client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=2000, stream=True)
        async with stream:
            async for chunk in stream:
                assert chunk.choices[0].delta.role == "assistant"
                break
        answer = await client.chat.completions.create(model=model, **PLAIN)

    assert answer.choices[0].message.content


async def an_async_streaming_helper(url, model):
    async with _async_client(url) as client:
        whole = await client.chat.completions.create(model=model, **ENDING)
        async with client.chat.completions.stream(model=model, **ENDING) as stream:
            text = "".join([event.delta async for event in stream if event.type == "content.delta"])

    assert text == whole.choices[0].message.content
