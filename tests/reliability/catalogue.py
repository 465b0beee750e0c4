"""A server to be attacked: its API over FakeRunner behind real sockets, with keys, and an innocent client that asks all
the while. What every entry of the catalogue has to leave behind is checked here."""

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from app.api.access import Access
from tests.api.api_parts import build, served_model
from tests.fakes import BOS, EOS, ByteTokenizer, FakeRunner
from tests.live_server import LiveServer, serve

KEY = "s3cr3t-key"
PROMPT = "s3cr3t-prompt"
MAX_BODY = 4 * 2**20
MAX_ERROR = 2048
JSON = {"content-type": "application/json"}
PROBE = {"prompt": [1, 2], "max_tokens": 3, "return_token_ids": True}
SECONDS = 10.0  # for an answer to whatever it is
NAMES = {"<eos>": EOS, "<bos>": BOS}


class NamingTokenizer(ByteTokenizer):
    """The names of its special tokens become these, as a real one's do."""

    def marked(self, text: str, mark: str) -> str:
        return re.sub("<(?=eos>|bos>)", f"<{mark}", text)

    def encode(self, text: str, add_special_tokens: bool = True, *, mark: str = "") -> list[int]:
        token_ids: list[int] = []
        for piece in re.split("(<eos>|<bos>)", text):
            token_ids += [NAMES[piece]] if piece in NAMES else (piece.replace(mark, "") if mark else piece).encode()
        return token_ids


@dataclass(frozen=True)
class Target:
    server: LiveServer
    client: httpx.Client  # knows the key

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """`body`: bytes as they are, or what JSON makes of it, NaN included."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(path, content=content, headers=JSON | headers)

    def complete(self, **fields: Any) -> httpx.Response:
        return self.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 2} | fields)

    def chat(self, **fields: Any) -> httpx.Response:
        messages = [{"role": "user", "content": PROMPT}]
        return self.post("/v1/chat/completions", {"messages": messages, "max_tokens": 2} | fields)

    def raw(self, data: bytes, *, ends: bool = False) -> bytes:
        """All that comes back until the server closes, which it has to; empty: it closed without a word."""
        with socket.create_connection((self.server.host, self.server.port), timeout=SECONDS) as connection:
            connection.settimeout(SECONDS)
            received = b""
            try:
                connection.sendall(data)
                if ends:
                    connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(65536):
                    received += piece
            except (ConnectionResetError, BrokenPipeError):
                """It closed while this client went on sending."""
            return received


def request_head(path: str, *headers: str, method: str = "POST", key: str = KEY) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", "Content-Type: application/json"]
    return "\r\n".join([*lines, *headers, "", ""]).encode()


def refused(answer: httpx.Response | bytes, *statuses: int) -> dict[str, Any]:
    """Checks an error's status, shape and length, and that it echoes nothing; returns it."""
    if isinstance(answer, bytes):
        head, _, content = answer.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
    else:
        status, content, head = answer.status_code, answer.content, str(answer.headers).encode()
    assert status in statuses, (status, content[:500])
    assert len(content) <= MAX_ERROR
    for secret in (KEY, PROMPT):
        assert secret.encode() not in content + head
    (error,) = json.loads(content).values()
    assert set(error) == {"message", "type", "param", "code"}
    return error


@contextmanager
def target(runner: FakeRunner | None = None, **limits: int) -> Iterator[Target]:
    runner = runner or FakeRunner(num_blocks=64, max_model_len=128)
    access = Access((("key-1", "another"), ("ada", KEY)), max_body=MAX_BODY, seconds_to_send=2.0)
    served = served_model(tokenizer=NamingTokenizer(), max_model_len=runner.info.max_model_len)
    with (
        serve(build(runner, served=served, access=access, **limits)) as server,
        httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {KEY}"}, timeout=SECONDS) as client,
    ):
        yield Target(server, client)


@contextmanager
def nobody_is_harmed(attacked: Target, logs: Any) -> Iterator[None]:
    """While the body runs, an innocent client asks and has the answers it had before; afterwards no slot is left, and
    the log has neither prompt nor key."""
    for name in ("app", "model", "uvicorn"):
        logs.set_level(logging.DEBUG, logger=name)
    ended, failures, num_answers = threading.Event(), list[str](), list[int]()

    def probe() -> None:
        while not ended.is_set():
            answer = httpx.post(
                f"{attacked.server.url}/v1/completions",
                json=PROBE,
                headers={"authorization": f"Bearer {KEY}"},
                timeout=SECONDS,
            )
            if answer.status_code != 200 or answer.json()["choices"][0]["token_ids"] != [3, 6, 12]:
                failures.append(answer.text)
            num_answers.append(1)
            ended.wait(0.01)

    innocent = threading.Thread(target=probe)
    innocent.start()
    try:
        while not num_answers:
            time.sleep(0.001)
        before = len(num_answers)
        yield
        deadline = time.monotonic() + SECONDS
        while len(num_answers) == before and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(num_answers) > before, "the innocent client has no answer"
    finally:
        ended.set()
        innocent.join(SECONDS)
    assert not failures
    _wait_until_no_slot_is_left(attacked)
    for secret in (KEY, PROMPT):
        assert secret not in logs.text


def _wait_until_no_slot_is_left(attacked: Target) -> None:
    deadline = time.monotonic() + SECONDS
    while attacked.client.get("/slots").json()["slots"] or attacked.client.get("/v1/requests").json()["data"]:
        assert time.monotonic() < deadline, "a slot is left"
        time.sleep(0.01)
