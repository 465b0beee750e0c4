"""What a server of this kind must survive, entries 35 to 37, 39 and 40 of the catalogue: clients that leave, freeze,
vanish or come in crowds, and long requests beside short ones. Each is over a real socket, and most are beside an
innocent client; see `catalogue.py` for what holds behind those.

Where a test needs a request to be in some phase, it asks the server until it is; steps are slow enough for that.
"""

import ctypes
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import httpx
import pytest

from app import bounded_http, listener
from app.bounded_http import BoundedHttp
from app.main import SWITCH_INTERVAL_SECONDS
from tests.fakes import FakeRunner
from tests.reliability.catalogue import KEY, PROMPT, SECONDS, Target, nobody_is_harmed, request_head, target

PATH = "/v1/completions"
ENDLESS = {"max_tokens": 50_000, "ignore_eos": True}
LONG = [1] * 20_000
LARGE = {
    "max_tokens": 300,
    "n": 8,
    "ignore_eos": True,
    "logprobs": 20,
}  # an answer of more than any buffer here has room for
RESET = struct.pack("ii", 1, 0)
STREAMED_AND_WHOLE = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


def slow_steps() -> FakeRunner:
    """Its first tokens are sums, which the innocent client expects; later ones cost nothing to find."""
    return FakeRunner(
        lambda tokens, num_prompt: sum(tokens) % 200 if len(tokens) < 100 else 97,
        num_blocks=4096,
        block_size=32,
        max_model_len=100_000,
        before_step=lambda _: time.sleep(0.0005),
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Target]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)  # as the server has it; or the event loop waits for the fake's steps
    with target(slow_steps(), max_num_seqs=16, max_num_batched_tokens=32) as attacked:
        yield attacked
    sys.setswitchinterval(before)


@pytest.fixture(autouse=True)
def _innocent(request, caplog):
    if "server" not in request.fixturenames:
        yield
        return
    with nobody_is_harmed(request.getfixturevalue("server"), caplog):
        yield


@pytest.fixture
def half_a_second_to_take(monkeypatch):
    monkeypatch.setattr(BoundedHttp, "seconds_to_take", 0.5)
    monkeypatch.setattr(bounded_http, "BYTES_A_SECOND", 4 * 2**20)


def send(server: Target, name: str, *headers: str, times: int = 1, **fields) -> socket.socket:
    """Its own buffer is small, so that much is left to the server's if it does not read."""
    body = json.dumps({"prompt": PROMPT} | fields).encode()
    head = request_head(PATH, f"Content-Length: {len(body)}", f"X-Request-Id: {name}", *headers)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(SECONDS)
    client.connect((server.server.host, server.server.port))
    client.sendall((head + body) * times)
    return client


def states(server: Target) -> dict[str, str]:
    return {one["id"]: one["state"] for one in server.client.get("/v1/requests").json()["data"]}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def wait_until(server: Target, name: str, state: str | None) -> None:
    wait_for(lambda: states(server).get(name) == state)


def is_connected(server: Target, port: int) -> bool:
    return port in server.server.client_ports


def everything_from(client: socket.socket) -> tuple[bytes, bool]:
    """All that comes, and whether it ended with a reset."""
    received = b""
    try:
        while piece := client.recv(65536):
            received += piece
    except ConnectionResetError:
        return received, True
    return received, False


def texts_of(stream: bytes) -> str:
    events = [json.loads(line[6:]) for line in stream.split(b"\n") if line.startswith(b"data: {")]
    return "".join(event["choices"][0]["text"] for event in events)


@contextmanager
def in_state(server: Target, state: str, **fields) -> Iterator[socket.socket]:
    """A request named "gone" that is queued, in prefill or in decode."""
    others = [send(server, f"other-{i}", prompt=[1], **ENDLESS) for i in range(16)] if state == "queued" else []
    wait_for(lambda: sum(value == "decode" for value in states(server).values()) >= len(others))
    with closing(send(server, "gone", prompt=LONG if state == "prefill" else PROMPT, **ENDLESS, **fields)) as client:
        wait_until(server, "gone", state)
        yield client
        wait_until(server, "gone", None)
    for other in others:
        other.close()


@STREAMED_AND_WHOLE
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("state", ["queued", "prefill", "decode"])
def test_35_a_client_leaves(server, state, reset, stream):
    with in_state(server, state, stream=stream) as client:
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()


@STREAMED_AND_WHOLE
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_35_a_client_leaves_behind_its_last_token_before_it_is_sent(server, reset, stream):
    client = send(server, "gone", stream=stream, **LARGE)
    port = client.getsockname()[1]
    wait_until(server, "gone", "decode")
    wait_until(server, "gone", None)
    assert is_connected(server, port)  # it has all its tokens, and most of them are still here
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()

    wait_for(lambda: not is_connected(server, port))


@STREAMED_AND_WHOLE
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
def test_35_a_client_leaves_that_has_sent_two_requests(server, at_once, stream):
    with closing(send(server, "gone", times=1 + at_once, stream=stream, **ENDLESS)) as client:
        wait_until(server, "gone", "decode")
        if not at_once:
            client.sendall(request_head("/health", method="GET"))
            time.sleep(0.05)  # for it to be read: by itself, and not together with the end
        client.close()

        wait_until(server, "gone", None)


def test_35_requests_sent_at_once_are_answered_in_turn(server):
    with closing(send(server, "several", times=5, max_tokens=2)) as client:
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 5 or not answers.endswith(b"}"):
            answers += client.recv(65536)


@STREAMED_AND_WHOLE
def test_36_a_client_that_ends_its_half_has_left(server, stream):
    with in_state(server, "decode", stream=stream) as client:
        client.shutdown(socket.SHUT_WR)
        received, _ = everything_from(client)
        assert b"[DONE]" not in received


def test_36_a_client_that_ends_its_half_and_reads_nothing(server):
    """Its request is freed at once; its connection, when what waits for it is taken, or it is cut."""
    with closing(send(server, "gone", stream=True, logprobs=20, **ENDLESS)) as client:
        wait_for(lambda: _num_tokens(server, "gone") > 300)  # more than the buffers hold
        client.shutdown(socket.SHUT_WR)

        wait_until(server, "gone", None)
        assert is_connected(server, client.getsockname()[1])


@pytest.mark.usefixtures("half_a_second_to_take")
def test_36_a_client_that_reads_nothing_of_an_answer_behind_which_the_server_closes(server):
    """Whatever is left of it: more than the server waits for before it goes on, or less."""
    with ExitStack() as clients:
        ports = set()
        for n in range(1, 9):
            client = clients.enter_context(closing(send(server, f"last-{n}", "Connection: close", **LARGE | {"n": n})))
            ports.add(client.getsockname()[1])
        wait_for(lambda: not ports & server.server.client_ports)


@pytest.mark.usefixtures("half_a_second_to_take")
@pytest.mark.parametrize("reads", [False, True], ids=["frozen", "a byte at a time"])
@STREAMED_AND_WHOLE
def test_36_a_client_that_does_not_read_is_cut_and_only_it(server, stream, reads):
    neighbour = send(server, "neighbour", stream=True, max_tokens=500, ignore_eos=True)
    fields = LARGE | ({"max_tokens": 50_000, "n": 1} if stream else {})
    with closing(neighbour), closing(send(server, "frozen", stream=stream, **fields)) as client:
        port = client.getsockname()[1]
        wait_until(server, "frozen", "decode")
        wait_for(lambda: not (reads and client.recv(1) == b"") and not is_connected(server, port))
        wait_until(server, "frozen", None)
        received, is_reset = everything_from(client)
        stream_of_neighbour = _until_done(neighbour)

    assert is_reset
    assert len(received) < 100_000
    assert len(texts_of(stream_of_neighbour)) == 500


def test_36_a_client_that_keeps_reading_has_the_time_its_answer_needs(server, monkeypatch):
    monkeypatch.setattr(BoundedHttp, "seconds_to_take", 0.5)
    with closing(send(server, "slow", **LARGE)) as client:
        wait_until(server, "slow", "decode")
        wait_until(server, "slow", None)
        answer = b""
        started = time.monotonic()
        while not answer.endswith(b"}}"):
            answer += client.recv(16384)
            time.sleep(0.008)
        assert time.monotonic() - started > 0.5  # or this would show nothing

    choices = json.loads(answer.partition(b"\r\n\r\n")[2])["choices"]
    assert [len(choice["logprobs"]["tokens"]) for choice in choices] == [300] * 8


@pytest.mark.usefixtures("half_a_second_to_take")
def test_36_a_client_that_asks_and_asks_and_reads_nothing(server):
    """Every answer is small; all together are not."""
    with closing(send(server, "asks", max_tokens=1)) as client:
        port = client.getsockname()[1]
        with suppress(OSError):
            while is_connected(server, port):
                client.sendall(request_head("/metrics", method="GET") * 100)
        wait_for(lambda: not is_connected(server, port))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a socket filter")
def test_36_a_client_that_vanishes(monkeypatch):
    """Without power: nothing comes from it any more, no end and no reset either. A filter on its socket drops whatever
    the server sends, so that it acknowledges nothing."""
    quick = {"TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 1, "TCP_USER_TIMEOUT": 1000}
    monkeypatch.setattr(listener, "KEEPALIVE", quick)
    with target(slow_steps(), max_num_seqs=16, max_num_batched_tokens=32) as server, ExitStack() as clients:
        for stream in (True, False):
            client = clients.enter_context(closing(send(server, f"vanishes-{stream}", stream=stream, **ENDLESS)))
            wait_until(server, f"vanishes-{stream}", "decode")
            _hear_nothing(client)
        wait_for(lambda: states(server) == {})


def test_37_two_hundred_requests_of_ten_thousand_tokens_are_cancelled(server):
    with ExitStack() as clients:
        for i in range(200):
            client = send(server, f"gone-{i}", max_tokens=10_000, ignore_eos=True, stream=i % 2 == 0)
            clients.enter_context(closing(client))
        time.sleep(0.5)
        num_there = len(states(server))
    answer = httpx.post(
        server.server.url + PATH,
        json={"prompt": [1, 2], "max_tokens": 3, "return_token_ids": True},
        headers={"authorization": f"Bearer {KEY}"},
        timeout=5,
    )

    assert num_there > 16  # some run, some wait; perhaps some were not even heard
    assert answer.json()["choices"][0]["token_ids"] == [3, 6, 12]


def test_39_a_long_prompt_holds_no_stream_back():
    """Counted in steps: in each that reads a piece of it, every stream that runs gets its token."""
    runner = slow_steps()
    with target(runner, max_num_seqs=16, max_num_batched_tokens=32) as server:
        clients = [send(server, f"stream-{i}", prompt=[1], stream=True, **ENDLESS) for i in range(8)]
        wait_for(lambda: list(states(server).values()) == ["decode"] * 8)
        slots = {slot["id"] for slot in server.client.get("/slots").json()["slots"]}
        answer = server.complete(prompt=LONG[:5000], max_tokens=1)
        for client in clients:
            client.close()

    assert answer.status_code == 200
    reading = [batch for batch in runner.batches if any(len(chunk.token_ids) > 1 for chunk in batch.chunks)]
    assert len(reading) == -(-5000 // (32 - 8))  # nor does it wait for them
    for batch in reading:
        assert {chunk.slot for chunk in batch.chunks if not chunk.token_ids} == slots


@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
def test_40_a_small_request_behind_a_large_one_while_the_pool_is_full(leaves):
    """It is not let past, or small ones without an end would keep the large one out for ever; once that has been let
    in, or has left, it is next."""
    gate = threading.Event()
    runner = FakeRunner(num_blocks=32, block_size=4, max_model_len=128, before_step=lambda _: gate.wait(0.005))
    with target(runner) as server:
        first = send(server, "first", prompt=[1] * 60, max_tokens=60, ignore_eos=True)
        wait_until(server, "first", "decode")
        large = send(server, "large", prompt=[1] * 100, max_tokens=10, ignore_eos=True)
        wait_until(server, "large", "queued")
        small = send(server, "small", prompt=[1, 2], max_tokens=3, return_token_ids=True)
        wait_until(server, "small", "queued")
        if leaves:
            large.close()
            wait_until(server, "small", None)
            assert states(server) == {"first": "decode"}
        gate.set()
        for client in (first, small) if leaves else (first, large, small):
            with closing(client):
                assert client.recv(65536).startswith(b"HTTP/1.1 200")

    opened = [slot.num_prompt_tokens for batch in runner.batches for slot in batch.opened]
    assert opened == ([60, 2] if leaves else [60, 100, 2])


def _num_tokens(server: Target, name: str) -> int:
    live = server.client.get("/v1/requests").json()["data"]
    return next((one["num_output_tokens"] for one in live if one["id"] == name), 0)


def _until_done(client: socket.socket) -> bytes:
    received = b""
    while b"[DONE]" not in received:
        piece = client.recv(65536)
        assert piece, "its stream was cut, too"
        received += piece
    return received


def _hear_nothing(client: socket.socket) -> None:
    """A socket filter (SO_ATTACH_FILTER) whose one instruction is: accept 0 bytes of whatever it is."""
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(instruction))
    client.setsockopt(socket.SOL_SOCKET, 26, program)
