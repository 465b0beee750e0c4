"""The anthropic SDK as its users use it, over a real socket."""

import threading
import time

import pytest

from tests.api.api_parts import build
from tests.api.chat_scripts import ARGUMENTS, SCHEMA, TEXT, Place, scripted
from tests.fakes import FakeRunner, fails_behind
from tests.live_server import serve

anthropic = pytest.importorskip("anthropic")

KEY = "sk-of-the-test"
HI = [{"role": "user", "content": "hi"}]
TOOLS = [{"name": "look", "description": "Looks.", "input_schema": SCHEMA}]


@pytest.fixture(scope="module")
def url():
    runner = FakeRunner(scripted, num_blocks=1024, max_model_len=1024, before_step=lambda _: time.sleep(0.001))
    with serve(build(runner, api_keys=[KEY])) as server:
        yield server.url


@pytest.fixture
def client(url):
    with anthropic.Anthropic(base_url=url, api_key=KEY, timeout=20, max_retries=0) as client:
        yield client


def asking(text, **options):
    return {"model": "fake", "max_tokens": 300, "messages": [{"role": "user", "content": text}]} | options


def test_a_message(client):
    message = client.messages.create(**asking("hi", system="Be kind.", metadata={"user_id": "u"}))

    assert [(block.type, block.text) for block in message.content] == [("text", TEXT)]
    assert (message.role, message.type, message.model) == ("assistant", "message", "fake")
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.input_tokens == len("system: Be kind.\nuser: hi\nassistant: ")
    assert message.usage.output_tokens == len(TEXT.encode()) + 1
    assert message.id == f"msg_{message._request_id}"


def test_a_streamed_message(client):
    whole = client.messages.create(**asking("think"))
    with client.messages.stream(**asking("think")) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()

    assert text == TEXT
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0] == whole.content[0]
    assert message.usage == whole.usage
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)


def test_the_events_of_a_stream(client):
    events = list(client.messages.create(**asking("think", stream=True)))

    types = [event.type for event in events]
    assert types[0] == "message_start"
    assert types.count("message_start") == 1
    assert types[-2:] == ["message_delta", "message_stop"]
    assert [event.content_block.type for event in events if event.type == "content_block_start"] == ["thinking", "text"]
    assert types.count("content_block_stop") == 2
    thinking = [event.delta for event in events if event.type == "content_block_delta" and event.index == 0]
    assert {delta.type for delta in thinking} == {"thinking_delta"}
    assert "".join(delta.thinking for delta in thinking) == f"Hm, {TEXT}"
    assert events[0].message.usage.output_tokens == 0
    assert events[0].message.stop_reason is None


def test_a_round_of_tools(client):
    first = client.messages.create(**asking("look", tools=TOOLS))

    assert [block.type for block in first.content] == ["thinking", "text", "tool_use"]
    thinking, text, call = first.content
    assert (thinking.thinking, text.text) == ("Hm.", "I look.")
    assert (call.name, call.input) == ("look", ARGUMENTS)
    assert first.stop_reason == "tool_use"

    result = {"type": "tool_result", "tool_use_id": call.id, "content": "red"}
    conversation = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = client.messages.create(model="fake", max_tokens=100, tools=TOOLS, messages=conversation)
    assert [block.text for block in second.content] == ["It is red."]


def test_a_streamed_round_of_tools(client):
    with client.messages.stream(**asking("look", tools=TOOLS)) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        message = stream.get_final_message()

    assert pieces
    assert message.content[2].input == ARGUMENTS
    assert message.stop_reason == "tool_use"


def test_the_sdks_own_loop_of_tools(client):
    seen = []

    @anthropic.beta_tool
    def look(at: str) -> str:
        """Looks.

        Args:
            at: What.
        """
        seen.append(at)
        return "red"

    runner = client.beta.messages.tool_runner(**asking("look", tools=[look]))
    assert runner.until_done().content[0].text == "It is red."
    assert seen == [ARGUMENTS["at"]]


def test_a_message_in_a_form(client):
    message = client.messages.parse(**asking("write", output_format=Place))

    assert message.parsed_output == Place(at="here")


def test_a_tool_that_must_be_called(client):
    choice = {"type": "tool", "name": "look", "disable_parallel_tool_use": True}
    message = client.messages.create(**asking("call", tools=TOOLS, tool_choice=choice))

    assert [(block.type, block.input) for block in message.content] == [("tool_use", ARGUMENTS)]


def test_why_a_message_ends(client):
    short = client.messages.create(**asking("hi", max_tokens=3))
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3)

    stopped = client.messages.create(**asking("red", stop_sequences=["blue", " red"]))
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " red")
    assert stopped.content[0].text == "It is"


def test_counting(client):
    count = client.messages.count_tokens(model="fake", messages=HI, system="Be kind.")

    assert count.input_tokens == client.messages.create(**asking("hi", system="Be kind.")).usage.input_tokens


async def test_the_asynchronous_client(url):
    async with anthropic.AsyncAnthropic(base_url=url, api_key=KEY, timeout=20, max_retries=0) as client:
        async with client.messages.stream(**asking("hi")) as stream:
            assert "".join([text async for text in stream.text_stream]) == TEXT
        assert (await client.messages.create(**asking("red"))).content[0].text == "It is red."


def test_a_key_as_a_bearer_token(url):
    with anthropic.Anthropic(base_url=url, auth_token=KEY, api_key=None, max_retries=0) as client:
        assert client.messages.create(**asking("red")).content[0].text == "It is red."


def test_errors_come_as_the_clients_own(client, url):
    with pytest.raises(anthropic.NotFoundError) as unknown:
        client.messages.create(**asking("hi", model="other"))
    assert unknown.value.type == "not_found_error"
    assert unknown.value.request_id == unknown.value.body["request_id"]
    with pytest.raises(anthropic.BadRequestError) as wrong:
        client.messages.create(**asking("hi", extra_body={"temperature": 3}))
    assert wrong.value.type == "invalid_request_error"
    assert wrong.value.api_message.startswith("temperature: ")
    with (
        anthropic.Anthropic(base_url=url, api_key="other", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError) as unauthorised,
    ):
        stranger.messages.create(**asking("hi"))
    assert unauthorised.value.type == "authentication_error"


def test_a_failure_in_a_stream_is_raised_at_its_place():
    may_fail = threading.Event()
    with (
        serve(build(FakeRunner(fails_behind(3, may_fail)))) as server,
        anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0) as client,
        client.messages.stream(**asking("hi", max_tokens=20)) as stream,
    ):
        texts = iter(stream.text_stream)
        assert next(texts).startswith("a")
        may_fail.set()
        with pytest.raises(anthropic.APIStatusError, match="The model failed"):
            list(texts)
