"""What a server of this kind must survive, entries 1 to 34 of the catalogue: HTTP, JSON, the meaning of fields. Each is
one test, over a real socket, beside an innocent client; see `catalogue.py` for what holds behind every one."""

import json
import math
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from app.bounded_http import MAX_HEADERS, BoundedHttp
from tests.fakes import EOS, VOCAB_SIZE
from tests.reliability.catalogue import (
    MAX_BODY,
    PROMPT,
    SECONDS,
    NamingTokenizer,
    Target,
    nobody_is_harmed,
    refused,
    request_head,
    target,
)

PATH = "/v1/completions"
FLOATS = ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "timeout"]
INTEGERS = ["max_tokens", "min_tokens", "top_k", "seed", "n", "logprobs", "best_of", "prompt_logprobs", "priority"]
LONG = "x" * 2**20
PLAIN = b'{"prompt": "a", "max_tokens": 1}'


@pytest.fixture(scope="module")
def server() -> Iterator[Target]:
    with target() as attacked:
        yield attacked


@pytest.fixture(autouse=True)
def _innocent(server, caplog):
    with nobody_is_harmed(server, caplog):
        yield


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(BoundedHttp, "seconds_for_head", 0.5)


def with_body(*headers: str, body: bytes = PLAIN) -> bytes:
    return request_head(PATH, *headers) + body


def test_01_headers_that_are_too_long_or_too_many(server):
    long = f"X-Long: {'a' * 65536}"
    many = [f"X-{number}: a" for number in range(300)]

    refused(server.raw(request_head(PATH, long)), 431)
    refused(server.raw(request_head(PATH, *many)), 431)
    refused(server.raw(b"GET /health HTTP/1.1\r\nX-Unending: " + b"a" * 10**6), 431)
    refused(server.raw(b"GET /" + b"a" * 10**6), 431)
    few = [f"X-{number}: a" for number in range(MAX_HEADERS - 10)]
    assert b" 200 " in server.raw(request_head("/health", *few, "Connection: close", method="GET"))[:16]


@pytest.mark.parametrize(
    "unending",
    [b"1\r\n{\r\n0\r\n" + b"a: b\r\n" * 10**5, b"1\r\n{\r\n0\r\na: " + b"b" * 10**6, b"1;a=" + b"b" * 10**6],
    ids=["headers behind it", "a header behind it", "an extension of a chunk"],
)
def test_01_a_body_that_ends_in_what_is_none_of_it(server, unending):
    refused(server.raw(request_head(PATH, "Transfer-Encoding: chunked") + unending), 431)
    answers = server.raw(request_head("/health", "Transfer-Encoding: chunked", method="GET") + unending)
    assert answers.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 431 "))


def test_01_headers_behind_a_body_are_nobodys(server):
    body = b"20\r\n" + PLAIN + b"\r\n0\r\nContent-Encoding: br\r\n\r\n"
    answer = server.raw(request_head(PATH, "Transfer-Encoding: chunked", "Connection: close") + body)
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_02_a_body_over_the_limit_by_length_and_by_chunks(server):
    refused(server.raw(request_head(PATH, f"Content-Length: {MAX_BODY + 1}")), 413)  # without a byte of it
    refused(server.raw(request_head(PATH, "Content-Length: 99999999999999")), 413)
    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    with socket.create_connection((server.server.host, server.server.port), timeout=SECONDS) as connection:
        connection.sendall(request_head(PATH, "Transfer-Encoding: chunked"))
        sent = 0
        try:
            while sent < 16 * MAX_BODY:
                connection.sendall(chunk)
                sent += 65536
        except OSError:
            """It has closed."""
        assert sent < 16 * MAX_BODY, "the server reads on"
    refused(server.post(PATH, b"[" + b" " * MAX_BODY), 413)


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: -1"],
        ["Content-Length: a"],
        ["Content-Length: +5"],
        ["Content-Length: 0x10"],
        ["Content-Length: 1e3"],
        ["Content-Length: " + "9" * 40],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 32", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding: gzip"],
        ["Bad Header: a"],
        ["No colon"],
    ],
)
def test_03_lengths_that_are_none(server, headers):
    refused(server.raw(with_body(*headers), ends=True), 400)


def test_03_what_is_no_http(server):
    for data in (b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"hello " * 100 + b"\r\n\r\n", b"\x00" * 100):
        refused(server.raw(data, ends=True), 400)


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "x"])
def test_03_who_offers_another_protocol_is_answered_in_this_one(server, protocol):
    """Java's client offers HTTP/2 with a body behind it."""
    offer = ["Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABk"]
    length, chunked, ending = "Content-Length: 32", "Transfer-Encoding: chunked", "Connection: close"
    whole, plain = request_head(PATH, *offer, length) + PLAIN, request_head(PATH, length) + PLAIN
    chunks = request_head(PATH, *offer, chunked) + b"20\r\n" + PLAIN + b"\r\n0\r\n\r\n"
    with socket.create_connection((server.server.host, server.server.port), timeout=SECONDS) as connection:
        for pieces in ([whole], [whole[:30], whole[30:-20], whole[-20:]], [chunks], [plain]):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.02)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    many = request_head("/health", *offer, method="GET") * 500 + request_head(PATH, ending, length) + PLAIN
    answers = server.raw(many)
    assert answers.count(b"HTTP/1.1 200 ") == 501
    assert server.raw(request_head("x:1", *offer, method="CONNECT"), ends=True)[:12] == b"HTTP/1.1 400"


def test_04_a_hundred_thousand_chunks_of_one_byte(server):
    body = json.dumps({"prompt": "a", "max_tokens": 1, "user": "u" * 99_950}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    answer = server.raw(request_head(PATH, "Transfer-Encoding: chunked", "Connection: close") + chunks)

    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.usefixtures("impatient")
def test_05_headers_and_bodies_that_do_not_come(server):
    started = time.monotonic()
    refused(server.raw(b"GET /health HTTP/1.1\r\nX-Slow: "), 408)
    assert server.raw(b"") == b""  # whoever says nothing is told nothing
    assert server.raw(b"\r\n") == b""
    refused(server.raw(request_head(PATH, "Content-Length: 100") + b'{"prompt'), 408)
    assert time.monotonic() - started < SECONDS


@pytest.mark.usefixtures("impatient")
def test_05_blank_lines_behind_an_answer(server):
    with socket.create_connection((server.server.host, server.server.port), timeout=SECONDS) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"\r\n")
        assert connection.recv(65536) == b""  # closed, though uvicorn waits no longer for a next request


@pytest.mark.usefixtures("impatient")
def test_05_a_header_that_comes_a_byte_at_a_time(server):
    with socket.create_connection((server.server.host, server.server.port), timeout=SECONDS) as connection:
        connection.settimeout(0.05)
        received = b""
        for byte in b"GET /health HTTP/1.1\r\nX-Slow: " + b"a" * 200:
            try:
                connection.sendall(bytes([byte]))
                received += connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                break
            if received:
                break
    assert received == b"" or refused(received, 408)


PATHS = [
    "//v1/models",
    "/%2e/v1/models",
    "/V1/models",
    "/v1/models/",
    "/health/../v1/models",
    "/health%2f..%2fv1/models",
]


@pytest.mark.parametrize("path", [*PATHS, "/v1/models", "/health%00", "/health%3f", "/health;x", "/metrics", "/docs"])
@pytest.mark.parametrize(
    "headers",
    [
        ["Host: x/health?"],
        ["Host: /health", "X-Forwarded-Host: x/health"],
        ["X-HTTP-Method-Override: GET", "X-Original-URL: /health", "X-Rewrite-URL: /health"],
        ["X-Forwarded-Prefix: /health", "Forwarded: host=x"],
    ],
)
def test_06_neither_host_nor_path_opens_anything(server, path, headers):
    for method in ("GET", "POST"):
        lines = [f"{method} {path} HTTP/1.1", *(headers if "Host" in headers[0] else ["Host: x", *headers])]
        answer = server.raw("\r\n".join([*lines, "Content-Length: 0", "Connection: close", "", ""]).encode())
        refused(answer, 401)


@pytest.mark.parametrize(
    "value",
    [b"", b"Bearer", b"Bearer wrong", b"Bearer \xff\xc3\xa9", b"Basic YTpi", b"Bearer " + b"a" * 60_000],
    ids=lambda value: repr(value[:16]),
)
def test_07_a_key_that_is_none(server, value):
    with httpx.Client(base_url=server.server.url) as client:
        for headers in ({"authorization": value}, {"x-api-key": value.removeprefix(b"Bearer ")}):
            error = refused(client.post(PATH, json={"prompt": PROMPT}, headers=headers), 401)
            assert error["code"] == "invalid_api_key"


def test_07_a_key_of_a_megabyte(server):
    refused(server.raw(request_head(PATH, key="a" * 10**6)), 431)


@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/json5"])
def test_08_another_content_type(server, kind):
    headers = {} if kind is None else {"content-type": kind}
    refused(server.client.post(PATH, content=b'{"prompt": "a"}', headers=headers), 415)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "gzip, identity"])
def test_08_a_compressed_body(server, encoding):
    headers = {"content-type": "application/json", "content-encoding": encoding}
    refused(server.client.post(PATH, content=b"\x1f\x8b" * 1000, headers=headers), 415)


def test_09_a_foreign_page_is_told_nothing(server):
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    with httpx.Client(base_url=server.server.url) as client:
        preflight = client.options(PATH, headers=headers)
    answers = [
        preflight,
        server.client.options(PATH, headers=headers),
        server.client.get("/v1/models", headers=headers),
    ]

    assert [answer.status_code for answer in answers] == [401, 405, 200]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert "server" not in answer.headers


@pytest.mark.parametrize(
    "sent",
    [
        [b"\x1b[31mred\x1b[0m"],
        [b"a" * 10_240],
        [b"one", b"two"],
        [b"caf\xe9"],
        [b""],
        [b"<script>"],
        [f"{PROMPT} {PROMPT}".encode()],
    ],
    ids=lambda sent: repr(sent[0][:16]),
)
def test_10_a_hostile_request_id_is_not_repeated(server, sent):
    answer = server.client.get("/v1/models", headers=[(b"x-request-id", value) for value in sent])

    assert answer.status_code == (400 if b"\x1b" in sent[0] else 200)  # such a header is no HTTP
    if answer.status_code == 400:
        refused(answer, 400)
        return
    (mine,) = answer.headers.get_list("x-request-id")
    assert mine.isalnum()
    assert mine.encode() not in sent


def test_10_a_line_break_in_a_request_id(server):
    answer = server.raw(request_head("/health", "X-Request-Id: a\rSet-Cookie: x", "Connection: close", method="GET"))
    assert b"Set-Cookie" not in answer
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 200"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"prompt": "a"',
        b'{"prompt": "a"} x',
        b'{"prompt": "a"}{"prompt": "a"}',
        b'\xef\xbb\xbf{"prompt": "a"}',
        '{"prompt":"a"}'.encode("utf-16"),
        '{"prompt":"a"}'.encode("utf-32-be"),
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"prompt": "\xc0\xaf"}',
        b"{'prompt': 'a'}",
        b'{"prompt": "a",}',
        b'{"prompt": /* a */ "a"}',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_11_a_body_that_is_no_json(server, body):
    refused(server.post(PATH, body), 400)


@pytest.mark.parametrize("field", ["prompt", "metadata", "response_format", "logit_bias"])
def test_12_nesting_without_an_end(server, field):
    for opened, closed in ((b"[", b"]"), (b'{"a":', b"}")):
        for depth in (200, 100_000):
            nested = opened * depth + b"1" + closed * depth
            refused(server.post(PATH, b'{"prompt": "a", "' + field.encode() + b'": ' + nested + b"}"), 400)


@pytest.mark.parametrize("field", ["max_tokens", "seed", "temperature", "metadata", "n"])
@pytest.mark.parametrize("number", [b"9" * 5000, b"1e999", b"-1e999", b"9" * 400 + b".5"], ids=lambda n: n[:6].decode())
def test_13_numbers_beyond_all_bounds(server, field, number):
    refused(server.post(PATH, b'{"prompt": "a", "' + field.encode() + b'": ' + number + b"}"), 400)


@pytest.mark.parametrize("field", [*FLOATS, "metadata"])
def test_14_what_is_no_number(server, field):
    for value in (math.nan, math.inf, -math.inf):
        refused(server.complete(**{field: value}), 400)
        refused(server.complete(**{field: [value]}), 400)
    if field != "metadata":
        for text in ("NaN", "Infinity", "1.0"):
            refused(server.complete(**{field: text}), 400)


@pytest.mark.parametrize("field", ["prompt", "stop", "user", "model", "bad_words", "metadata"])
def test_15_half_of_a_surrogate_pair(server, field):
    for half in ("\\ud800", "\\udfff", "a\\udc00b"):
        refused(server.post(PATH, f'{{"prompt": "a", "max_tokens": 1, "{field}": "{half}"}}'.encode()), 400)
        refused(server.post(PATH, f'{{"prompt": "a", "{half}": 1}}'.encode()), 400)
    whole = server.post(PATH, b'{"prompt": "\\ud83d\\ude00", "max_tokens": 1, "echo": true}').json()
    assert whole["choices"][0]["text"].startswith("😀")


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "max_tokens": 1, "max_tokens": 1}',
        b'{"prompt": "a", "\\u0070rompt": "b"}',
        b'{"prompt": "a", "metadata": {"a": 1, "a": 2}}',
        b'{"prompt": "a", "logit_bias": {"1": 1, "1": 2}}',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_16_the_same_name_twice(server, body):
    refused(server.post(PATH, body), 400)


@pytest.mark.parametrize("field", INTEGERS)
def test_17_an_integer_is_an_integer(server, field):
    for value in (True, False, "1", 1.0, 1.5, [1], {"a": 1}):
        assert refused(server.complete(**{field: value}), 400)["param"] == field


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "\x01\x02\x1b[31m\x7f", "\u0085\u2028\ufeff\ufffe"])
def test_18_control_characters_are_text(server, text):
    answer = server.complete(prompt=text, max_tokens=1, echo=True)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["text"].startswith(text)
    assert server.chat(messages=[{"role": "user", "content": text}]).status_code == 200
    assert server.complete(stop=text, user=text).status_code == 200
    refused(server.complete(model=text), 404)
    if "\x00" in text:
        refused(server.post(PATH, f'{{"prompt": "{text}"}}'.encode()), 400)  # not escaped


@pytest.mark.parametrize("path", [PATH, "/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/tokenize"])
@pytest.mark.parametrize("body", [b"[]", b"null", b'"a"', b"1", b"true", b"[{}]", b'[["prompt", "a"]]'])
def test_19_a_body_that_is_no_object(server, path, body):
    refused(server.post(path, body), 400)


@pytest.mark.parametrize("field", ["prompt", "temperature", "stop", "model", "tools", "logit_bias", "nobody_knows"])
def test_20_a_megabyte_of_the_wrong_type(server, field):
    for value in ({"a": PROMPT * 2**16}, [[PROMPT] * 2**16], {PROMPT * 2**16: 1}):
        refused(server.complete(**{field: value}), 400)
    refused(server.complete(**{PROMPT[:6] + LONG: 1}), 400)


@pytest.mark.parametrize("prompt", ["", [], [[]], [""], ["a", ""], [[1], []], None, {}])
def test_21_a_prompt_that_is_empty(server, prompt):
    refused(server.complete(prompt=prompt), 400)
    refused(server.chat(messages=[{"role": "user", "content": prompt}] if prompt not in ("", []) else []), 400)


def test_21_a_prompt_of_white_space_is_one(server):
    assert server.complete(prompt=" \n\t").status_code == 200


def test_22_prompts_at_the_limit_and_beyond(server):
    assert server.complete(prompt="a" * 127, max_tokens=1).status_code == 200
    assert server.complete(prompt="a" * 128, max_tokens=0).status_code == 200
    for length in (128, 129, 1280, 2**20):
        error = refused(server.complete(prompt="a" * length, max_tokens=1), 400)
        assert error["code"] == "context_length_exceeded"


def test_23_more_than_can_ever_fit(server):
    for prompt, max_tokens in (("a", 128), ("a" * 100, 29), ("a", 2**31 - 1)):
        error = refused(server.complete(prompt=prompt, max_tokens=max_tokens), 400)
        assert error["code"] == "context_length_exceeded"


def test_24_a_number_of_tokens_that_is_none(server):
    for value in (-1, 2**31, 2**63, 10**30):
        refused(server.complete(max_tokens=value), 400)
        refused(server.chat(max_tokens=value), 400)
    assert server.complete(max_tokens=0).json()["choices"][0]["text"] == ""
    assert server.complete(max_tokens=None).json()["usage"]["completion_tokens"] == 16


def test_25_more_choices_than_anybody_reads(server):
    for field in ("n", "best_of"):
        for value in (0, -1, 10**9, 129):
            refused(server.complete(**{field: value}), 400)
    refused(server.complete(prompt=["a"] * 10_000), 400)
    refused(server.complete(prompt=["a"] * 100, n=100), 400)


def test_26_more_log_probabilities_than_there_are(server):
    for field in ("logprobs", "prompt_logprobs"):
        for value in (10**9, 21, -1):
            refused(server.complete(**{field: value}), 400)
    refused(server.chat(logprobs=True, top_logprobs=10**9), 400)
    scored = server.complete(echo=True, logprobs=1, max_tokens=0).json()["choices"][0]
    assert scored["text"] == PROMPT
    assert len(scored["logprobs"]["tokens"]) == len(PROMPT)


def test_27_stops_without_an_end(server):
    for stop in (["a"] * 10_000, "", [""], LONG, [LONG], ["a", ["b"]]):
        refused(server.complete(stop=stop), 400)
    assert (
        server.complete(prompt=[1, 2], max_tokens=8, stop=["\x06", "\x06\x0c"]).json()["choices"][0]["text"] == "\x03"
    )
    first = server.complete(prompt=[1, 2], max_tokens=8, stop="\x03").json()["choices"][0]
    assert (first["text"], first["finish_reason"]) == ("", "stop")
    assert server.complete(stop="😀").status_code == 200  # of four tokens


def test_28_biases_of_what_is_no_token(server):
    for key in ("AI", "-1", str(VOCAB_SIZE), str(2**63), "", "1.0", " 1", "٣"):
        refused(server.complete(logit_bias={key: 1}), 400)
    for value in (math.inf, 1e308, -101, "1", True, None):
        refused(server.complete(logit_bias={"1": value}), 400)
    refused(server.complete(logit_bias={str(number): 1 for number in range(100_000)}), 400)
    assert server.complete(logit_bias={str(number): -100 for number in range(VOCAB_SIZE)}).status_code == 200


def test_29_token_ids_that_are_none(server):
    for token_id in (-1, VOCAB_SIZE, 2**31, 2**40, 2**64, True, 1.0, "1"):
        refused(server.complete(prompt=[1, token_id]), 400)
        refused(server.complete(prompt=[[1], [token_id]]), 400)
        refused(server.complete(stop_token_ids=[token_id]), 400)
        refused(server.complete(allowed_token_ids=[token_id]), 400)
        refused(server.post("/detokenize", {"tokens": [token_id]}), 400)


def test_30_seeds(server):
    for seed in (-1, 0, -(2**63), 2**63, 2**64 - 1):
        assert server.complete(seed=seed, n=2).status_code == 200
    for seed in (2**64, -(2**63) - 1, 10**30):
        refused(server.complete(seed=seed), 400)


def test_31_extremes_of_sampling(server):
    for fields in (
        {"temperature": 0},
        {"temperature": 1e-300},
        {"temperature": 2, "top_p": 1e-45},
        {"top_k": -1},
        {"top_k": 2**31 - 1},
        {"presence_penalty": 2, "frequency_penalty": -2, "repetition_penalty": 10},
        {"repetition_penalty": 0.01},
    ):
        assert server.complete(**fields).status_code == 200
    for fields in (
        {"temperature": 2.0001},
        {"temperature": -0.1},
        {"top_p": 0},
        {"top_k": 2**31},
        {"top_k": -2},
        {"presence_penalty": 2.1},
        {"repetition_penalty": 0},
    ):
        refused(server.complete(**fields), 400)


def test_32_in_a_chat_nobody_but_the_template_names_special_tokens(server):
    hostile = "a<eos>b<bos>"

    chat = server.chat(messages=[{"role": "user", "content": hostile}], return_token_ids=True).json()
    rendered = server.post("/v1/chat/completions/render", {"messages": [{"role": "user", "content": hostile}]}).json()
    tokens = server.post("/tokenize", {"messages": [{"role": "user", "content": hostile}]}).json()["tokens"]
    for token_ids in (chat["prompt_token_ids"], rendered["token_ids"], tokens):
        assert EOS not in token_ids
        assert hostile in NamingTokenizer().decode(token_ids)
    assert hostile in rendered["prompt"]
    plain = server.complete(prompt=hostile, return_token_ids=True).json()["choices"][0]
    assert EOS in plain["prompt_token_ids"]  # the model's own language


@pytest.mark.parametrize("name", ["other", "../../x", "/etc/passwd", "FAKE", "fake\n", "%2e%2e", "{{7*7}}"])
def test_33_a_model_that_is_not_served(server, name):
    error = refused(server.complete(model=name), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    refused(server.client.get("/v1/models/" + name.strip().replace("%", "%25") + "x"), 404)
    for wrong in ("", "x" * 257, 1, ["fake"]):
        refused(server.complete(model=wrong), 400)


def test_34_nothing_of_a_request_is_fetched_run_or_compiled_without_bounds(server):
    audio = {"type": "input_audio", "input_audio": {"data": "", "format": ""}}
    image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x"}}
    for fields in (
        {"chat_template": "{% for a in range(10**9) %}{% endfor %}"},
        {"chat_template_kwargs": {"chat_template": "x"}},
        {"chat_template_kwargs": {"messages": []}},
        {"messages": [{"role": "user", "content": [image]}]},
        {"messages": [{"role": "user", "content": [audio]}]},
        {"guided_regex": "(a+)+b"},
        {"structured_outputs": {"regex": "("}},
        {"structured_outputs": {"grammar": "start: start"}},
        {"structured_outputs": {"regex": "a" * 2**20}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://127.0.0.1:1/x"}}}},
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        {"prompt_embeds": "gASVAAAA"},
    ):
        refused(server.chat(**fields), 400)
