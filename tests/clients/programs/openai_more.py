"""openai-python: completions, embeddings, models."""

import math

import openai

PROMPT = "The capital of France is"


def _client(url):
    return openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=120)


def _complete(url, model, **fields):
    return _client(url).completions.create(model=model, **{"prompt": PROMPT, "temperature": 0} | fields)


def a_completion(url, model):
    answer = _complete(url, model, max_tokens=8)

    assert answer.object == "text_completion"
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8


def choices_of_several_prompts(url, model):
    answer = _complete(url, model, prompt=[PROMPT, "One, two,"], n=2, max_tokens=6)

    texts = [choice.text for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert texts[0] == texts[1] == _complete(url, model, max_tokens=6).choices[0].text
    assert texts[2] == texts[3] == _complete(url, model, prompt="One, two,", max_tokens=6).choices[0].text


def a_stream_adds_up_to_the_whole(url, model):
    request = {"prompt": [PROMPT, "One, two,"], "n": 2, "max_tokens": 8, "temperature": 1, "seed": 3}
    texts = [""] * 4
    for chunk in _complete(url, model, stream=True, **request):
        for choice in chunk.choices:
            texts[choice.index] += choice.text

    assert texts == [choice.text for choice in _complete(url, model, **request).choices]


def echo_with_log_probabilities(url, model):
    answer = _complete(url, model, echo=True, logprobs=3, max_tokens=4).choices[0]
    scored = answer.logprobs

    assert answer.text.startswith(PROMPT)
    assert "".join(scored.tokens) == answer.text
    assert [
        answer.text[start:][: len(token)] for start, token in zip(scored.text_offset, scored.tokens, strict=True)
    ] == (scored.tokens)
    assert scored.token_logprobs[0] is None
    assert scored.top_logprobs[0] is None
    for token, value, top in list(zip(scored.tokens, scored.token_logprobs, scored.top_logprobs, strict=True))[1:]:
        assert 3 <= len(top) <= 4
        assert math.isclose(top[token], value, abs_tol=1e-6)


def a_prompt_is_scored_alone(url, model):
    """With max_tokens 0, as lm-evaluation-harness would like it; the values are those of the longer answer."""
    alone = _complete(url, model, echo=True, logprobs=1, max_tokens=0).choices[0]
    longer = _complete(url, model, echo=True, logprobs=1, max_tokens=4).choices[0]

    assert alone.text == PROMPT
    assert alone.logprobs.tokens == longer.logprobs.tokens[:-4]
    assert alone.logprobs.token_logprobs == longer.logprobs.token_logprobs[:-4]


def what_echo_scores_is_what_is_generated_with(url, model):
    generated = _complete(url, model, logprobs=1, max_tokens=6).choices[0]
    scored = _complete(url, model, prompt=PROMPT + generated.text, echo=True, logprobs=1, max_tokens=0).choices[0]

    assert scored.logprobs.tokens[-6:] == generated.logprobs.tokens
    for left, right in zip(scored.logprobs.token_logprobs[-6:], generated.logprobs.token_logprobs, strict=True):
        assert math.isclose(left, right, abs_tol=0.05)


def the_best_of_several(url, model):
    request = {"temperature": 1, "seed": 7, "max_tokens": 6, "logprobs": 0}
    best = _complete(url, model, best_of=4, **request).choices
    every = _complete(url, model, n=4, **request).choices

    def mean(choice):
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    assert [choice.text for choice in best] == [max(every, key=mean).text]


def steering(url, model):
    token = _complete(url, model, max_tokens=1, extra_body={"return_token_ids": True}).choices[0].token_ids[0]
    banned = _complete(url, model, max_tokens=1, logit_bias={str(token): -100}).choices[0].text
    stopped = _complete(url, model, max_tokens=40, stop=[" Paris", "."]).choices[0]

    assert banned != _complete(url, model, max_tokens=1).choices[0].text
    assert stopped.finish_reason == "stop"
    assert "." not in stopped.text


def an_embedding_in_both_encodings(url, model):
    client = _client(url)
    by_default = client.embeddings.create(model=model, input=["autumn", "spring"])
    as_floats = client.embeddings.create(model=model, input=["autumn", "spring"], encoding_format="float")

    assert [entry.index for entry in by_default.data] == [0, 1]
    for left, right in zip(by_default.data, as_floats.data, strict=True):
        assert len(left.embedding) == len(right.embedding) > 100
        assert all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(left.embedding, right.embedding, strict=True))
    assert by_default.data[0].embedding != by_default.data[1].embedding
    assert by_default.usage.prompt_tokens == by_default.usage.total_tokens > 0


def the_models(url, model):
    client = _client(url)
    (listed,) = client.models.list()

    assert listed.id == model
    assert client.models.retrieve(model).id == model


async def an_async_completion(url, model):
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        whole = await client.completions.create(model=model, prompt=PROMPT, max_tokens=8, temperature=0)
        stream = await client.completions.create(model=model, prompt=PROMPT, max_tokens=8, temperature=0, stream=True)
        text = "".join([chunk.choices[0].text async for chunk in stream])

    assert text == whole.choices[0].text
