"""POST /tokenize and POST /detokenize."""

import pytest

from tests.api.api_parts import WithBos, asking, build, served_model
from tests.fakes import BOS, EOS, ByteTokenizer

USER = {"role": "user", "content": "hi"}


@pytest.fixture
async def client():
    async with asking(build(served=served_model(tokenizer=WithBos()))) as client:
        yield client


@pytest.mark.parametrize("name", ["prompt", "content"])
@pytest.mark.parametrize(("options", "first"), [({}, [BOS]), ({"add_special_tokens": False}, [])])
async def test_text_becomes_tokens(client, name, options, first):
    answer = await client.post("/tokenize", json={name: "é", "model": "fake", **options})

    assert answer.json() == {"tokens": [*first, 0xC3, 0xA9], "count": len(first) + 2, "max_model_len": 128}


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, list(b"user: hi\nassistant: ")),
        ({"add_generation_prompt": False}, list(b"user: hi\n")),
        ({"add_special_tokens": True}, [BOS, *b"user: hi\nassistant: "]),
    ],
)
async def test_messages_become_the_tokens_that_a_chat_begins_with(client, options, tokens):
    answer = await client.post("/tokenize", json={"messages": [USER], **options})

    assert answer.json()["tokens"] == tokens


async def test_an_empty_text_has_no_tokens_of_its_own(client):
    assert (await client.post("/tokenize", json={"prompt": ""})).json()["tokens"] == [BOS]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "content": "a"}, "prompt"),
        ({"prompt": "a", "messages": [USER]}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"prompt": "a", "add_generation_prompt": True}, "add_generation_prompt"),
        ({"prompt": "a", "add_special_tokens": 1}, "add_special_tokens"),
        ({"prompt": "a", "parse_special": True}, "parse_special"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
    ],
)
async def test_what_cannot_be_tokenized_is_refused_by_field(client, body, param):
    answer = await client.post("/tokenize", json=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


class TakesNothing(ByteTokenizer):
    """As the real one, of a text of millions of characters."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        raise ValueError("the text is too long")


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("/tokenize", {"prompt": "a"}, "prompt"),
        ("/tokenize", {"content": "a"}, "content"),
        ("/tokenize", {"messages": [USER]}, "messages"),
        ("/v1/completions", {"prompt": ["a", "b"]}, "prompt"),
        ("/v1/chat/completions", {"messages": [USER]}, "messages"),
    ],
)
async def test_a_text_that_the_tokenizer_does_not_take_is_the_clients_mistake(route, body, param):
    async with asking(build(served=served_model(tokenizer=TakesNothing()))) as client:
        answer = await client.post(route, json=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert "the text is too long" in answer.json()["error"]["message"]


async def test_tokens_become_text_under_both_names(client):
    answer = await client.post("/detokenize", json={"tokens": [97, 0xC3, 0xA9, EOS]})

    assert answer.json() == {"prompt": "aé<eos>", "content": "aé<eos>"}
    assert (await client.post("/detokenize", json={"tokens": []})).json()["prompt"] == ""


@pytest.mark.parametrize("tokens", [None, "a", 1, [258], [-1], [True], [1.0], ["a"], [[1]], [2**40]])
async def test_what_are_no_tokens_is_refused(client, tokens):
    answer = await client.post("/detokenize", json={"tokens": tokens})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"].split(".")[0] == "tokens"
