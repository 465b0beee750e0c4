"""Files of requests, right and wrong."""

import json
from pathlib import Path

import pytest

from app.bench.datasets import check_endpoint, read_jsonl, read_sharegpt
from app.bench.errors import BadWorkload


def test_a_line_is_a_prompt_a_text_token_ids_or_messages(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    messages = [{"role": "user", "content": "hi"}]
    lines = [
        {"prompt": "a", "max_tokens": 5},
        {"text": "b"},
        {"prompt": [1, 2], "output_tokens": 6},
        {"messages": messages},
    ]
    path.write_text("\n\n".join(json.dumps(line) for line in lines) + "\n")
    assert read_jsonl(path) == [("a", 5), ("b", None), ((1, 2), 6), (tuple(messages), None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no request in it"),
        ('{"prompt": "a"}\n{"prompt": ', "requests.jsonl:2: Invalid JSON"),
        ('{"prompt": "a"}\n\n{"question": "b"}', "requests.jsonl:3: there is no prompt"),
        ('{"prompt": ""}', "requests.jsonl:1: there is no prompt"),
        ('{"prompt": "a", "max_tokens": 0}', "greater than or equal to 1"),
    ],
)
def test_a_wrong_line_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(text)
    with pytest.raises(BadWorkload, match=message):
        read_jsonl(path)


def test_a_file_that_is_not_there_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(BadWorkload, match="cannot be read"):
        read_jsonl(tmp_path / "none")


def test_a_conversation_asks_its_first_turn_for_about_as_long_a_reply(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    turns = [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "x" * 40}, {"from": "human", "value": "ok"}]
    path.write_text(json.dumps([{"id": "a", "conversations": turns}, {"conversations": turns[:1]}, {"id": "b"}]))
    assert read_sharegpt(path) == [("why?", 10)]


@pytest.mark.parametrize(("text", "message"), [("{}", "not a ShareGPT file"), ("[]", "no conversation in it")])
def test_what_is_no_collection_of_conversations_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    path.write_text(text)
    with pytest.raises(BadWorkload, match=message):
        read_sharegpt(path)


def test_messages_are_for_chats_and_token_ids_for_completions() -> None:
    messages, token_ids = ({"role": "user", "content": "hi"},), (1, 2)
    check_endpoint([(messages, None), ("text", None)], is_chat=True)
    check_endpoint([(token_ids, None), ("text", None)], is_chat=False)
    with pytest.raises(BadWorkload, match="--endpoint chat"):
        check_endpoint([(messages, None)], is_chat=False)
    with pytest.raises(BadWorkload, match="--endpoint completions"):
        check_endpoint([(token_ids, None)], is_chat=True)
