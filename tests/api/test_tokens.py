"""POST /tokenize and POST /detokenize."""

from types import MappingProxyType

import pytest

from tests.api.api_parts import LinesTemplate, WithBos, asking, build, served_model
from tests.fakes import BOS, EOS, ByteTokenizer

USER = {"role": "user", "content": "hi"}


@pytest.fixture
async def client():
    async with asking(build(served=served_model(tokenizer=WithBos()))) as client:
        yield client


@pytest.mark.parametrize("name", ["prompt", "content"])
@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({}, [BOS]),
        ({"add_special_tokens": False}, []),
        ({"add_special": False}, []),
        ({"add_special": True, "add_special_tokens": True, "parse_special": True}, [BOS]),
        ({"return_token_strs": False, "with_pieces": False}, [BOS]),
    ],
)
async def test_text_becomes_tokens(client, name, options, first):
    answer = await client.post("/tokenize", json={name: "é", "model": "fake", **options})

    assert answer.json() == {"tokens": [*first, 0xC3, 0xA9], "count": len(first) + 2, "max_model_len": 128}


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, list(b"user: hi\nassistant: ")),
        ({"add_generation_prompt": False}, list(b"user: hi\n")),
        ({"add_special_tokens": True}, [BOS, *b"user: hi\nassistant: "]),
        ({"add_special": True}, [BOS, *b"user: hi\nassistant: "]),
    ],
)
async def test_messages_become_the_tokens_that_a_chat_begins_with(client, options, tokens):
    answer = await client.post("/tokenize", json={"messages": [USER], **options})

    assert answer.json()["tokens"] == tokens


async def test_tokens_are_told_as_the_vocabulary_spells_them(client):
    answer = await client.post("/tokenize", json={"prompt": "aé", "return_token_strs": True})

    assert answer.json()["tokens"] == [BOS, 97, 0xC3, 0xA9]
    assert answer.json()["token_strs"] == ["<bos>", "a", "Ã", "©"]


async def test_tokens_are_told_in_pieces_as_llama_cpp_has_them(client):
    answer = await client.post("/tokenize", json={"content": "aé", "with_pieces": True, "add_special": False})

    pieces = [{"id": 97, "piece": "a"}, {"id": 0xC3, "piece": [0xC3]}, {"id": 0xA9, "piece": [0xA9]}]
    assert answer.json() == {"tokens": pieces, "count": 3, "max_model_len": 128}


async def test_a_client_without_a_tokenizer_learns_what_this_one_is(client):
    assert (await client.get("/tokenizer_info")).json() == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "vocab_size": 258,
        "model_max_length": 128,
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": None,
        "pad_token": None,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": LinesTemplate.source,
    }


async def test_a_tokenizer_that_has_a_beginning_and_does_not_add_it_says_so():
    async with asking(build()) as client:
        info = (await client.get("/tokenizer_info")).json()

    assert (info["bos_token"], info["add_bos_token"]) == ("<bos>", False)


class OfAnotherMind(ByteTokenizer):
    special_tokens = MappingProxyType({"image_token": "<image>", "add_bos_token": "yes"})


async def test_roles_of_the_models_own_are_told_and_replace_nothing():
    served = served_model(tokenizer=OfAnotherMind(), chat_template=None)
    async with asking(build(served=served)) as client:
        info = (await client.get("/tokenizer_info")).json()

    assert info["image_token"] == "<image>"
    assert (info["add_bos_token"], info["eos_token"], info["chat_template"]) == (False, None, None)


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
        ({"prompt": "a", "parse_special": False}, "parse_special"),
        ({"prompt": "a", "add_special_tokens": True, "add_special": False}, "add_special"),
        ({"prompt": "a", "with_pieces": 1}, "with_pieces"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
    ],
)
async def test_what_cannot_be_tokenized_is_refused_by_field(client, body, param):
    answer = await client.post("/tokenize", json=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


class TakesNothing(ByteTokenizer):
    """As the real one, of a text of millions of characters."""

    def encode(self, text: str, add_special_tokens: bool = True, *, mark: str = "") -> list[int]:
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
