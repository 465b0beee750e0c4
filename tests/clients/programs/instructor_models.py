"""instructor in each of its modes for OpenAI's API."""

from typing import Literal

import instructor
import openai
from pydantic import BaseModel

MESSAGES = [{"role": "user", "content": 'Review as JSON, {"mood": "good", "recommended": true}: I liked the film.'}]
GUIDED = (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA)


class Review(BaseModel):
    """A film's review."""

    mood: Literal["good", "bad"]
    recommended: bool


def _request(model):
    return {
        "model": model,
        "messages": MESSAGES,
        "response_model": Review,
        "max_tokens": 80,
        "temperature": 0,
        "max_retries": 1,
    }


def _client(url, mode):
    return instructor.from_openai(openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0), mode=mode)


def tools(url, model):
    assert isinstance(_client(url, instructor.Mode.TOOLS).chat.completions.create(**_request(model)), Review)


def strict_tools(url, model):
    assert isinstance(_client(url, instructor.Mode.TOOLS_STRICT).chat.completions.create(**_request(model)), Review)


def json_schema(url, model):
    assert isinstance(_client(url, instructor.Mode.JSON_SCHEMA).chat.completions.create(**_request(model)), Review)


def json(url, model):
    """instructor sends `json_object` with a bare `schema`, which holds here as in llama.cpp."""
    assert isinstance(_client(url, instructor.Mode.JSON).chat.completions.create(**_request(model)), Review)


def the_answer_behind_it(url, model):
    for mode in GUIDED:
        review, answer = _client(url, mode).chat.completions.create_with_completion(**_request(model))
        assert isinstance(review, Review)
        assert answer.usage.completion_tokens > 0


def partial_answers(url, model):
    for mode in GUIDED:
        partials = list(_client(url, mode).chat.completions.create_partial(**_request(model)))
        whole = _client(url, mode).chat.completions.create(**_request(model))
        assert len(partials) > 1
        assert partials[-1].model_dump() == whole.model_dump()


async def asynchronous(url, model):
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        review = await instructor.from_openai(client).chat.completions.create(**_request(model))
    assert isinstance(review, Review)
