"""LlamaIndex: OpenAILike, which is its OpenAI class for other servers."""

from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

PROMPT = "The capital of France is"
MESSAGES = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="What is autumn?")]


class Review(BaseModel):
    """A film's review."""

    mood: Literal["good", "bad"]
    recommended: bool


def _weather(city: Literal["Paris", "Oslo"]) -> str:
    """The weather of a city."""
    return f"4 degrees in {city}"


def _llm(url, model, *, is_chat):
    return OpenAILike(
        model=model,
        api_base=url + "/v1",
        api_key="none",
        is_chat_model=is_chat,
        is_function_calling_model=is_chat,
        context_window=8192,
        max_tokens=40,
        temperature=0,
        max_retries=0,
    )


def complete(url, model):
    llm = _llm(url, model, is_chat=False)
    whole = llm.complete(PROMPT)

    assert whole.text
    assert list(llm.stream_complete(PROMPT))[-1].text == whole.text


def chat(url, model):
    llm = _llm(url, model, is_chat=True)
    whole = llm.chat(MESSAGES)
    chunks = list(llm.stream_chat(MESSAGES))

    assert whole.message.content
    assert whole.message.role == "assistant"
    assert chunks[-1].message.content == whole.message.content == "".join(chunk.delta for chunk in chunks)


async def asynchronous(url, model):
    llm = _llm(url, model, is_chat=True)
    whole = await llm.achat(MESSAGES)
    chunks = [chunk async for chunk in await llm.astream_chat(MESSAGES)]

    assert chunks[-1].message.content == whole.message.content
    assert (await _llm(url, model, is_chat=False).acomplete(PROMPT)).text


def tools(url, model):
    llm = _llm(url, model, is_chat=True)
    tools = [FunctionTool.from_defaults(fn=_weather, name="weather")]
    answer = llm.chat_with_tools(tools, user_msg="The weather in Oslo?", tool_required=True)
    calls = llm.get_tool_calls_from_response(answer)

    assert calls
    assert all(call.tool_name == "weather" and call.tool_kwargs["city"] in ("Paris", "Oslo") for call in calls)
    *_, last = llm.stream_chat_with_tools(tools, user_msg="The weather in Oslo?", tool_required=True)
    streamed = llm.get_tool_calls_from_response(last)
    assert [call.tool_kwargs for call in streamed] == [call.tool_kwargs for call in calls]


def a_structured_answer(url, model):
    """Whole; its stream asks for a tool with `auto`, which leaves the form to the model."""
    assert isinstance(_llm(url, model, is_chat=True).as_structured_llm(Review).chat(MESSAGES).raw, Review)
