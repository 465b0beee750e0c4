"""A client that goes away takes its requests with it, all of them, and nobody else's.

Its socket is closed without a word; the server's own /slots and /metrics then show who is left. The phases in which it
may go are in `tests/reliability/test_catalogue_lifecycle.py`.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest

from tests.api.api_parts import build
from tests.fakes import FakeRunner
from tests.live_server import LiveServer, serve

ENDLESS = {"max_tokens": 50_000, "ignore_eos": True}
SHORT = [1]


@dataclass(frozen=True)
class Watched:
    server: LiveServer

    def slots(self) -> dict[str, str]:
        """request id → phase"""
        slots = httpx.get(self.server.url + "/slots").json()["slots"]
        return {slot["request_id"]: slot["phase"] for slot in slots}

    def metric(self, name: str) -> float:
        lines = httpx.get(self.server.url + "/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(name + " "))

    def send(self, request_id: str, **body) -> socket.socket:
        content = json.dumps(body).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n"
            f"x-request-id: {request_id}\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        client = socket.create_connection((self.server.host, self.server.port), timeout=20)
        client.sendall(head.encode() + content)
        return client


@contextmanager
def watched(max_num_seqs: int = 4, max_num_batched_tokens: int = 8) -> Iterator[Watched]:
    runner = FakeRunner(
        lambda tokens, num_prompt: 97,
        max_model_len=100_000,
        num_blocks=8_000,
        block_size=32,
        before_step=lambda _: time.sleep(0.001),  # so that a request is still where it was seen
    )
    app = build(runner, max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens)
    with serve(app) as server:
        yield Watched(server)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def assert_all_is_free(here: Watched, num_aborted: int) -> None:
    wait_for(lambda: here.metric('slotwise_requests_total{outcome="abort"}') == num_aborted)
    assert here.metric("slotwise_requests_waiting") == 0
    wait_for(lambda: here.slots() == {})
    wait_for(lambda: here.metric("slotwise_kv_blocks_used") == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_with_all_its_choices(stream):
    with watched() as here:
        client = here.send("gone", prompt=[SHORT, SHORT, SHORT], n=3, stream=stream, **ENDLESS)
        wait_for(lambda: len(here.slots()) == 4)
        assert here.metric("slotwise_requests_waiting") == 5
        client.close()

        assert_all_is_free(here, 9)


def test_while_it_does_not_read():
    """The stream is full to the client's last buffer when it goes; nothing may wait for it."""
    with watched() as here:
        client = here.send("gone", prompt=SHORT, stream=True, logprobs=20, **ENDLESS)
        wait_for(lambda: here.metric("slotwise_generation_tokens_total") > 1000)
        client.close()

        assert_all_is_free(here, 1)


def test_neighbours_go_on():
    with watched() as here:
        body = {"prompt": [1, 2], "max_tokens": 300, "return_token_ids": True}
        answers: list[httpx.Response] = []
        staying = threading.Thread(
            target=lambda: answers.append(httpx.post(here.server.url + "/v1/completions", json=body, timeout=60))
        )
        staying.start()
        clients = [here.send(f"gone-{i}", prompt=SHORT, stream=i % 2 == 0, **ENDLESS) for i in range(6)]
        wait_for(lambda: len(here.slots()) == 4)
        for client in clients:
            client.close()
        staying.join(60)

        assert answers[0].json()["choices"][0]["token_ids"] == [97] * 300
        assert_all_is_free(here, 6)


def test_a_connection_serves_the_next_request_after_an_answer():
    with watched() as here, httpx.Client(base_url=here.server.url) as client:
        for stream in (True, False, True):
            answer = client.post("/v1/completions", json={"prompt": SHORT, "max_tokens": 2, "stream": stream})
            assert answer.status_code == 200
        assert here.metric('slotwise_requests_total{outcome="abort"}') == 0
        assert here.metric('slotwise_requests_total{outcome="length"}') == 3
