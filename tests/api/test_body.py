"""What is refused before the engine hears of it: every field with wrong values, and every body that is not one."""

import json
import math
import threading

import pytest

from app.api import body as body_module
from app.api.schemas.wire import HARMLESS, NEUTRAL
from tests.api.api_parts import asking, build

COMPLETION = {"prompt": "hi", "max_tokens": 2}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
SECRET = "s3cr3t"

NOT_NUMBERS = [True, "1", SECRET, [1], {"a": 1}, math.nan, math.inf, -math.inf]
NOT_INTEGERS = [*NOT_NUMBERS, 1.0, 1.5, 10**30]
NOT_FLAGS = [1, 0, "true", SECRET, [], {}]
NOT_TEXTS = [1, True, {"text": SECRET}]

BAD_VALUES = {
    "model": [*NOT_TEXTS, "", ["fake"]],
    "max_tokens": [*NOT_INTEGERS, -1, 2**63],
    "max_completion_tokens": [*NOT_INTEGERS, -1],
    "min_tokens": [*NOT_INTEGERS, -1, 3],
    "temperature": [*NOT_NUMBERS, -0.1, 2.0001],
    "top_p": [*NOT_NUMBERS, 0, -0.1, 1.1],
    "top_k": [*NOT_INTEGERS, -2],
    "min_p": [*NOT_NUMBERS, -0.1, 1.1],
    "repetition_penalty": [*NOT_NUMBERS, 0, -1, 11],
    "presence_penalty": [*NOT_NUMBERS, -2.1, 2.1],
    "frequency_penalty": [*NOT_NUMBERS, -2.1, 2.1],
    "seed": [*NOT_INTEGERS, 2**64, -(2**63) - 1],
    "stop": [*NOT_TEXTS, "", [""], ["a"] * 17, [SECRET, 1], "x" * 257, [["a"]]],
    "stop_token_ids": [SECRET, 1, [-1], [258], [2**40], [True], ["1"], [1.0], [[1]], [1] * 65],
    "ignore_eos": NOT_FLAGS,
    "n": [*NOT_INTEGERS, 0, 129, 10**9],
    "stream": NOT_FLAGS,
    "return_token_ids": NOT_FLAGS,
    "include_stop_str_in_output": NOT_FLAGS,
    "skip_special_tokens": NOT_FLAGS,
    "timings": NOT_FLAGS,
    "typical_p": [*NOT_NUMBERS, 0, -0.1, 1.1],
    "top_n_sigma": [*NOT_NUMBERS, -1.1, 101],
    "xtc_probability": [*NOT_NUMBERS, -0.1, 1.1],
    "xtc_threshold": [*NOT_NUMBERS, -0.1, 1.1],
    "dry_multiplier": [*NOT_NUMBERS, -0.1, 101],
    "dry_base": [*NOT_NUMBERS, 0.9, 11],
    "dry_allowed_length": [*NOT_INTEGERS, 0],
    "dry_penalty_last_n": [*NOT_INTEGERS, -2],
    "dry_sequence_breakers": [SECRET, 1, [1], [""], ["a"] * 17, ["x" * 65]],
    "logit_bias": [SECRET, 1, [1], {SECRET: 1}, {"-1": 1}, {"5": SECRET}, {"5": 101}, {"5": -101}, {"258": 1}],
    "bad_words": [SECRET, 1, [1], [""], ["  "], ["x" * 257], ["a"] * 65],
    "allowed_token_ids": [SECRET, 1, [-1], [258], [True], ["1"], [1.0], [[1]]],
    "prompt_logprobs": [*NOT_INTEGERS, -1, 21],
    "priority": [*NOT_INTEGERS, -101, 101],
    "timeout": [*NOT_NUMBERS, 0, -1, 86_401],
    "response_format": [SECRET, {}, {"type": SECRET}, {"type": "json_schema"}],
    "structured_outputs": [SECRET, {}, {"regex": "("}, {"regex": "a", "choice": ["b"]}],
    "store": [True],
}
BAD_IN_COMPLETIONS = {
    "prompt": [
        None,
        1,
        True,
        [],
        [[]],
        {},
        "",
        [""],
        ["a", 1],
        [1, "a"],
        [-1],
        [258],
        [2**40],
        [True],
        [1.0],
        [[1], []],
        [[1], "a"],
        ["x"] * 1025,
        [[[1]]],
    ],
    "logprobs": [*NOT_INTEGERS, -1, 21, False],
    "echo": NOT_FLAGS,
    "add_special_tokens": NOT_FLAGS,
    "best_of": [*NOT_INTEGERS, 0, 129],
    "suffix": [SECRET],
}
BAD_IN_CHAT = {
    "messages": [None, SECRET, [], [SECRET], [{}], {"role": "user"}],
    "logprobs": [*NOT_FLAGS],
    "top_logprobs": [*NOT_INTEGERS, -1, 21, 5],
    "tools": [SECRET, [SECRET], [{"type": "function"}]],
    "tool_choice": [SECRET, 1, {}, "required"],  # there are no tools to choose from
    "parallel_tool_calls": NOT_FLAGS,
    "chat_template_kwargs": [SECRET, [SECRET], {"a b": 1}],
    "reasoning_effort": [SECRET, 1],
    "add_generation_prompt": NOT_FLAGS,
    "continue_final_message": [*NOT_FLAGS, True],  # the last message is not the assistant's
}


def cases(path: str, valid: dict, *tables: dict):
    for table in tables:
        for field, values in table.items():
            yield from (
                pytest.param(path, valid, field, value, id=f"{path[4:]}-{field}-{value!r:.20}") for value in values
            )


async def post(client, path, body):
    return await client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


@pytest.fixture
async def client():
    async with asking(build()) as client:
        yield client


def assert_refused(answer, param: str | None, status: int = 400):
    assert answer.status_code == status, answer.text
    assert len(answer.content) <= 2048
    assert SECRET not in answer.text
    error = answer.json()["error"]
    assert list(answer.json()) == ["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert (param or "") in error["message"]


@pytest.mark.parametrize(
    ("path", "valid", "field", "value"),
    [
        *cases("/v1/completions", COMPLETION, BAD_VALUES, BAD_IN_COMPLETIONS),
        *cases("/v1/chat/completions", CHAT, BAD_VALUES, BAD_IN_CHAT),
    ],
)
async def test_a_wrong_value_is_refused_by_its_fields_name(client, path, valid, field, value):
    answer = await post(client, path, valid | {field: value})

    param = answer.json()["error"]["param"]
    assert_refused(answer, param)
    assert param.split(".")[0] in (field, "max_completion_tokens" if field == "max_tokens" else field)


@pytest.mark.parametrize(("path", "valid"), [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)])
async def test_null_means_absent(client, path, valid):
    fields = [*BAD_VALUES, *NEUTRAL, *HARMLESS, "logprobs", "stream_options", "a_field_nobody_knows"]
    body = dict.fromkeys(fields) | valid

    assert (await post(client, path, body)).status_code == 200


@pytest.mark.parametrize(("path", "valid"), [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)])
async def test_a_field_that_is_not_supported_is_refused_by_name(client, path, valid):
    assert_refused(await post(client, path, valid | {"guided_json": {"a": SECRET}}), "guided_json")
    assert_refused(await post(client, path, valid | {"x" * 100_000: 1}), "x" * 80)


@pytest.mark.parametrize("field", sorted(HARMLESS))
async def test_harmless_fields_take_any_value(client, field):
    for value in ("a", 1, {"a": [1]}, True):
        assert (await post(client, "/v1/completions", COMPLETION | {field: value})).status_code == 200


@pytest.mark.parametrize("field", sorted(NEUTRAL))
async def test_what_is_not_supported_may_be_declined(client, field):
    for value in NEUTRAL[field]:
        assert (await post(client, "/v1/chat/completions", CHAT | {field: value})).status_code == 200
    answer = await post(client, "/v1/chat/completions", CHAT | {field: [SECRET]})
    assert_refused(answer, answer.json()["error"]["param"])
    assert answer.json()["error"]["param"].split(".")[0] == field


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": {"unknown": 1}}, "stream_options.unknown"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "max_completion_tokens"),
        ({"prompt": ["a"] * 9, "n": 128}, "n"),
        ({"prompt": ["a"] * 9, "best_of": 128}, "best_of"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"response_format": {"type": "json_object"}, "min_tokens": 1}, "min_tokens"),
    ],
)
async def test_fields_that_do_not_go_together_are_refused(client, changes, param):
    assert_refused(await post(client, "/v1/completions", COMPLETION | changes), param)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": SECRET, "content": "a"}, "messages.0.role"),
        ({"role": "user"}, "messages.0.content"),
        ({"role": "user", "content": None}, "messages.0.content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": SECRET}]}, "messages.0.content"),
        ({"role": "user", "content": [{"type": "text", "text": "a", "more": SECRET}]}, "messages.0.content"),
        ({"role": "assistant", "content": "", "tool_calls": [{"id": SECRET}]}, "messages.0.tool_calls.0.function"),
        ({"role": "user", "content": "a", "mood": SECRET}, "messages.0.mood"),
        ({"role": "user", "content": "a", "name": 1}, "messages.0.name"),
    ],
)
async def test_a_wrong_message_is_refused_by_its_place(client, message, param):
    assert_refused(await post(client, "/v1/chat/completions", {"messages": [message]}), param)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[",
        b"[]",
        b"null",
        b'"a"',
        b"1",
        b'{"prompt": "a"} x',
        b"\xef\xbb\xbf{}",
        '{"prompt":"a"}'.encode("utf-16"),
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"\\udc00": 1, "prompt": "a"}',
        b'{"prompt": "a\x00"}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda raw: repr(raw[:24]),
)
async def test_a_body_that_is_not_a_json_object_is_refused(client, raw):
    answer = await client.post("/v1/completions", content=raw, headers={"content-type": "application/json"})

    assert_refused(answer, None)


@pytest.mark.parametrize("field", ["prompt", "temperature", "stop", "stop_token_ids", "model", "user_name"])
async def test_a_huge_wrong_value_gives_a_small_error(client, field):
    answer = await post(client, "/v1/completions", COMPLETION | {field: {"a": SECRET * 200_000}})

    assert_refused(answer, field)


async def test_a_huge_list_of_wrong_values_gives_a_small_error(client):
    for field in ("prompt", "stop_token_ids", "stop"):
        assert_refused(await post(client, "/v1/completions", COMPLETION | {field: [1.5] * 200_000}), field)


@pytest.mark.parametrize("header", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
async def test_another_content_type_is_refused_by_the_headers_name(client, header):
    headers = {} if header is None else {"content-type": header}
    answer = await client.post("/v1/completions", content=json.dumps(COMPLETION), headers=headers)

    assert_refused(answer, None, status=415)
    assert "Content-Type" in answer.json()["error"]["message"]


async def test_a_compressed_body_is_refused_by_the_headers_name(client):
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = await client.post("/v1/completions", content=b"\x1f\x8b", headers=headers)

    assert_refused(answer, None, status=415)
    assert "Content-Encoding" in answer.json()["error"]["message"]


@pytest.mark.parametrize("header", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
async def test_json_is_taken_under_each_of_its_names(client, header):
    answer = await client.post("/v1/completions", content=json.dumps(COMPLETION), headers={"content-type": header})

    assert answer.status_code == 200


async def test_a_long_body_is_read_on_a_thread_and_answered_alike(monkeypatch):
    threads = []
    read = body_module.read_json
    monkeypatch.setattr(
        body_module, "read_json", lambda raw: threads.append(threading.current_thread().name) or read(raw)
    )
    async with asking(build()) as client:
        short = await client.post("/v1/completions", json=COMPLETION | {"user": "x"})
        long = await client.post("/v1/completions", json=COMPLETION | {"user": "x" * 70_000})
        refused = await client.post("/v1/completions", json=COMPLETION | {"n": ["x" * 70_000]})

    assert [answer.status_code for answer in (short, long, refused)] == [200, 200, 400]
    assert refused.json()["error"]["param"] == "n"
    assert threads[0] == threading.main_thread().name
    assert threading.main_thread().name not in threads[1:]
