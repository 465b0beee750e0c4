"""The prompt that a request becomes is the one that the engine gets when the same request is answered."""

import pytest

from model.chat_template import ChatTemplate
from tests.api.api_parts import WithBos, asking, build, served_model
from tests.fakes import BOS, FakeRunner

SOURCE = (
    "{% if tools %}tools: {{ tools | tojson }}\n{% endif %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}{{ mark or '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
USER = {"role": "user", "content": "hi é"}
BEGUN = {"role": "assistant", "content": "well,"}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CHATS = [
    {"messages": [USER]},
    {"messages": [{"role": "system", "content": [{"type": "text", "text": "be brief"}]}, USER]},
    {"messages": [USER], "tools": [WEATHER]},
    {"messages": [USER], "tools": [WEATHER], "tool_choice": "none"},
    {"messages": [USER], "chat_template_kwargs": {"mark": "!"}},
    {"messages": [USER, BEGUN], "continue_final_message": True, "add_generation_prompt": False},
    {"messages": [USER], "max_tokens": 3, "temperature": 0, "n": 2, "stream": True},
]


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner(num_blocks=512, max_model_len=1024)


@pytest.fixture
async def client(runner):
    served = served_model(tokenizer=WithBos(), chat_template=ChatTemplate(SOURCE, {}), max_model_len=1024)
    async with asking(build(runner, served=served, max_num_batched_tokens=1024)) as client:
        yield client


def prompts_run(runner: FakeRunner) -> list[tuple[int, ...]]:
    return [chunk.token_ids for batch in runner.batches for chunk in batch.chunks if chunk.token_ids]


@pytest.mark.parametrize("body", CHATS)
async def test_a_chat_is_shown_as_it_would_be_run(client, runner, body):
    rendered = (await client.post("/v1/chat/completions/render", json=body)).json()
    assert runner.batches == []
    answer = await client.post("/v1/chat/completions", json={"max_tokens": 1} | body)

    assert answer.status_code == 200, answer.text
    assert set(prompts_run(runner)) == {tuple(rendered["token_ids"])}
    assert rendered["prompt"].encode() == bytes(rendered["token_ids"])
    assert rendered["count"] == len(rendered["token_ids"])
    assert (rendered["object"], rendered["model"], rendered["max_model_len"]) == ("prompt", "fake", 1024)


async def test_a_chats_text_is_the_templates(client):
    rendered = (await client.post("/v1/chat/completions/render", json={"messages": [USER]})).json()

    assert rendered["prompt"] == "user: hi é\nassistant: "


@pytest.mark.parametrize("body", CHATS[:-2])
async def test_tokenize_gives_the_ids_of_the_chat(client, body):
    fields = {name: value for name, value in body.items() if name != "tool_choice"}
    rendered = (await client.post("/v1/chat/completions/render", json=fields)).json()
    tokens = (await client.post("/tokenize", json=fields)).json()

    assert tokens["tokens"] == rendered["token_ids"]


@pytest.mark.parametrize("prompt", ["é", ["a", "b"], [97, 98], [[97], [98]], [[0xC3, 0xA9, BOS]]])
@pytest.mark.parametrize("options", [{}, {"add_special_tokens": False}])
async def test_completions_are_shown_prompt_by_prompt(client, runner, prompt, options):
    body = {"prompt": prompt, **options}
    rendered = (await client.post("/v1/completions/render", json=body)).json()
    assert runner.batches == []
    await client.post("/v1/completions", json={"max_tokens": 1} | body)

    assert [tuple(one["token_ids"]) for one in rendered] == prompts_run(runner)


async def test_a_prompt_of_tokens_is_shown_as_text(client):
    rendered = (await client.post("/v1/completions/render", json={"prompt": [0xC3, 0xA9, BOS]})).json()

    assert [(one["prompt"], one["count"]) for one in rendered] == [("é<bos>", 3)]


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("/v1/chat/completions/render", {"messages": []}, "messages"),
        ("/v1/chat/completions/render", {"messages": [USER], "temperature": 3}, "temperature"),
        ("/v1/chat/completions/render", {"messages": [USER], "model": "x"}, "model"),
        ("/v1/completions/render", {"prompt": [258]}, "prompt"),
        ("/v1/completions/render", {"prompt": [[]]}, "prompt"),
        ("/v1/completions/render", {"prompt": "a", "model": "x"}, "model"),
        ("/tokenize", {"messages": [USER], "tools": [WEATHER, WEATHER]}, "tools"),
        ("/tokenize", {"messages": [USER], "continue_final_message": True}, "continue_final_message"),
        ("/tokenize", {"messages": [USER], "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ("/tokenize", {"prompt": "a", "tools": []}, "tools"),
    ],
)
async def test_what_would_be_refused_is_refused(client, route, body, param):
    answer = await client.post(route, json=body)

    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param
