"""More connections than the server can have: those that are there go on, others are told to come again or cut, and when
there is room again, so is the server."""

import json
import re
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, closing

import httpx
import psutil
import pytest

from app import server as server_module
from app.bounded_http import MAX_REFUSED
from tests.api.api_parts import build
from tests.live_server import serve

GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
SECONDS = 15


def answer_of(client: socket.socket) -> bytes:
    """Empty: it was cut."""
    client.settimeout(SECONDS)
    try:
        client.sendall(GET)
        return client.recv(65536)
    except OSError:
        return b""


def test_those_that_are_there_go_on_and_others_are_told():
    with serve(build(), max_connections=8) as server, ExitStack() as stack:
        clients = []
        for number in range(8 + MAX_REFUSED + 8):
            client = socket.create_connection((server.host, server.port))
            clients.append(stack.enter_context(closing(client)))
            if number < 8:
                assert answer_of(client).startswith(b"HTTP/1.1 200 ")
        cut = [answer_of(client) for client in clients[-8:]]  # … by then all have been accepted
        answers = [answer_of(client) for client in clients[:-8]]

        told = [answer for answer in answers if b" 503 " in answer[:16]]
        assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers[:8])
        assert cut == [b""] * 8
        assert len(told) == MAX_REFUSED
        head, _, body = told[0].partition(b"\r\n\r\n")
        assert b"retry-after: " in head
        assert b"connection: close" in head
        assert json.loads(body)["error"]["code"] == "too_many_connections"
        for client in clients:
            client.close()
        assert _answers_again(server.url)


def test_a_reset_between_two_requests_leaves_no_clock_running():
    with serve(build()) as server:
        with closing(socket.create_connection((server.host, server.port))) as client:
            assert answer_of(client).startswith(b"HTTP/1.1 200 ")
            (connection,) = server.state.connections
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        deadline = time.monotonic() + SECONDS
        while server.state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert connection.timeout_keep_alive_task is None


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_NOFILE"), reason="needs limits of another process")
def test_without_descriptors_it_lives_on(tmp_path):
    command = [sys.executable, "-m", "tests.serve_fake", "answers", "serve", "--port", "0"]
    with (tmp_path / "out").open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            deadline = time.monotonic() + 60
            while not (found := re.findall(r"API +http://127.0.0.1:(\d+)/v1", (tmp_path / "out").read_text())):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            inner = psutil.Process(process.pid)
            limit = inner.num_fds() + 20
            inner.rlimit(psutil.RLIMIT_NOFILE, (limit, limit))
            with ExitStack() as stack:
                for _ in range(100):
                    client = socket.create_connection(("127.0.0.1", int(found[0])))
                    stack.enter_context(closing(client))
                assert answer_of(client) == b""  # there is nothing to accept it with, and it is told so
            assert _answers_again(f"http://127.0.0.1:{found[0]}")
        finally:
            process.kill()


def _answers_again(url: str) -> bool:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            return httpx.get(url + "/health/live").status_code == 200
        except httpx.TransportError:
            time.sleep(0.05)
    return False


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_NOFILE"), reason="as the server")
@pytest.mark.parametrize(
    ("soft", "hard", "connections", "asked"),
    [
        (1024, 1024, 832, [(1024, 1024)]),
        (1024, 2048, 1856, [(2048, 2048)]),
        (1024, 10**6, 4096, [(4288, 10**6)]),
        (1024, -1, 4096, [(4288, -1)]),
        (100_000, 100_000, 4096, []),
        (64, 64, 1, [(64, 64)]),
        (-1, -1, 4096, []),
    ],
)
def test_so_many_as_there_can_be_descriptors_for(monkeypatch, soft, hard, connections, asked):
    heard = []

    def rlimit(self, which, limits=None):
        heard.extend([limits] if limits else [])
        return soft, hard

    monkeypatch.setattr(psutil.Process, "rlimit", rlimit)

    assert server_module.max_connections() == connections
    assert heard == asked
