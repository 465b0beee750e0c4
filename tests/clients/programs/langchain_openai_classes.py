"""LangChain: ChatOpenAI, OpenAI and OpenAIEmbeddings."""

from typing import Literal

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

QUESTION = "Name three colours of autumn leaves."


class Review(BaseModel):
    """A film's review."""

    mood: Literal["good", "bad"] = Field(description="What was thought of it.")
    recommended: bool


@tool("weather")
def _weather(city: Literal["Paris", "Oslo"]) -> str:
    """The weather of a city."""
    return f"4 degrees in {city}"


def _chat(url, model, **options):
    options = {"temperature": 0, "max_tokens": 60, "max_retries": 0} | options
    return ChatOpenAI(base_url=url + "/v1", api_key="none", model=model, **options)


def invoke(url, model):
    answer = _chat(url, model).invoke([("system", "Be brief."), ("human", QUESTION)])

    assert isinstance(answer, AIMessage)
    assert answer.content
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
    assert answer.usage_metadata["total_tokens"] == (
        answer.usage_metadata["input_tokens"] + answer.usage_metadata["output_tokens"]
    )


def stream(url, model):
    whole = _chat(url, model).invoke(QUESTION)
    chunks = list(_chat(url, model, stream_usage=True).stream(QUESTION))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk

    assert len(chunks) > 2
    assert total.content == whole.content
    assert total.response_metadata["finish_reason"] == whole.response_metadata["finish_reason"]
    assert total.usage_metadata == whole.usage_metadata


def batch(url, model):
    questions = [QUESTION, "And of spring?", "And of summer?"]
    together = _chat(url, model).batch(questions)

    assert [answer.content for answer in together] == [
        _chat(url, model).invoke(question).content for question in questions
    ]


async def astream(url, model):
    text = "".join([chunk.content async for chunk in _chat(url, model).astream(QUESTION)])

    assert text == (await _chat(url, model).ainvoke(QUESTION)).content


def with_structured_output(url, model):
    for method in ("json_schema", "function_calling", "json_mode"):
        chat = _chat(url, model, max_tokens=200)
        structured = chat.with_structured_output(Review, method=method, include_raw=method == "json_mode")
        answer = structured.invoke('Review as JSON, {"mood": "good", "recommended": true}: I liked the film.')
        if method == "json_mode":  # which keys there are is the model's own affair
            assert answer["raw"].content.startswith("{")
        else:
            assert isinstance(answer, Review)


def with_strict_structured_output(url, model):
    for method in ("json_schema", "function_calling"):
        structured = _chat(url, model).with_structured_output(Review, method=method, strict=True)
        assert isinstance(structured.invoke("I liked the film."), Review)


def bind_tools(url, model):
    question = HumanMessage("The weather in Oslo?")
    for choice in ("any", "weather"):
        answer = _chat(url, model).bind_tools([_weather], tool_choice=choice).invoke([question])
        assert answer.tool_calls
        assert not answer.invalid_tool_calls
        assert answer.response_metadata["finish_reason"] in ("tool_calls", "stop")
        results = [_weather.invoke(call) for call in answer.tool_calls]
        assert all(isinstance(result, ToolMessage) for result in results)

    chat = _chat(url, model).bind_tools([_weather])
    assert isinstance(chat.invoke([question, answer, *results]), AIMessage)


def streamed_tool_calls(url, model):
    chat = _chat(url, model).bind_tools([_weather], tool_choice="any")
    total = None
    for chunk in chat.stream("The weather in Oslo?"):
        total = chunk if total is None else total + chunk
    whole = chat.invoke("The weather in Oslo?")

    assert [(call["name"], call["args"]) for call in total.tool_calls] == [
        (call["name"], call["args"]) for call in whole.tool_calls
    ]


def log_probabilities(url, model):
    answer = _chat(url, model, max_tokens=5).bind(logprobs=True, top_logprobs=2).invoke(QUESTION)

    assert len(answer.response_metadata["logprobs"]["content"]) == 5


def the_responses_api(url, model):
    chat = _chat(url, model, use_responses_api=True)
    whole = chat.invoke(QUESTION)
    streamed = "".join(chunk.text for chunk in chat.stream(QUESTION))

    assert whole.text
    assert streamed == whole.text
    assert isinstance(chat.with_structured_output(Review).invoke("I liked the film."), Review)


def completions(url, model):
    llm = OpenAI(base_url=url + "/v1", api_key="none", model=model, temperature=0, max_tokens=12, max_retries=0)
    whole = llm.invoke("The capital of France is")

    assert whole
    assert "".join(llm.stream("The capital of France is")) == whole
    assert len(llm.generate(["One, two,", "A, b,"]).generations) == 2


def embeddings(url, model):
    embedder = OpenAIEmbeddings(
        base_url=url + "/v1", api_key="none", model=model, check_embedding_ctx_length=False, max_retries=0
    )
    documents = embedder.embed_documents(["autumn", "spring"])

    assert len(documents) == 2
    assert max(abs(a - b) for a, b in zip(documents[0], embedder.embed_query("autumn"), strict=True)) < 1e-6
