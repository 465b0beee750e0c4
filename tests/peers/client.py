"""The load-test client: a closed loop of streamed completions against any server that speaks OpenAI's `/v1/completions`
with token ids as the prompt.

It shares its cores with the server, so while answers come it does no more than note when each piece came; they are read
when all are there. It knows nothing of how a server is started.
"""

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.peers.workload import Answer, Figures, Workload

EVENT, END = b"data: ", b"[DONE]"


class PeerError(Exception):
    """A server did not do what was asked of it."""


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int
    model: str  # as the server calls it


def measure(address: Address, workload: Workload) -> Figures:
    """Raises PeerError for an answer that is refused, broken off or shorter than asked."""
    cpu = time.process_time()
    streams = asyncio.run(_load(address, workload))
    used = time.process_time() - cpu
    return Figures.of([_read(stream, workload.output_tokens) for stream in streams], used)


async def _load(address: Address, workload: Workload) -> "list[_Stream]":
    requests = [_request(address, workload, number) for number in range(workload.num_requests)]
    numbers = count()
    streams: list[_Stream] = []

    async def work() -> None:
        while (number := next(numbers)) < len(requests):
            streams.append(await _ask(address, requests[number]))

    async with asyncio.TaskGroup() as workers:
        for _ in range(workload.concurrency):
            workers.create_task(work())
    return streams


def _request(address: Address, workload: Workload, number: int) -> bytes:
    body: dict[str, Any] = {
        "model": address.model,
        "prompt": workload.prompt(number),
        "max_tokens": workload.output_tokens,
        "temperature": workload.temperature,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return _head("POST", "/v1/completions", address, json.dumps(body).encode())


def _head(method: str, path: str, address: Address, body: bytes = b"") -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Stream(asyncio.Protocol):
    """Everything that comes over one connection, and when."""

    def __init__(self) -> None:
        self.sent = 0.0
        self.pieces: list[tuple[float, bytes]] = []
        self._tail = b""
        self.ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.perf_counter(), data))
        self._tail = (self._tail + data)[-len(END) - 4 :]  # the mark stands there, before the last chunk's end
        if END in data or END in self._tail:
            self._end()

    def connection_lost(self, error: Exception | None) -> None:  # what is missing is seen in reading
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def _ask(address: Address, request: bytes) -> _Stream:
    sent = time.perf_counter()
    transport, stream = await asyncio.get_running_loop().create_connection(_Stream, address.host, address.port)
    stream.sent = sent
    transport.write(request)
    await stream.ended
    transport.close()
    return stream


def _read(stream: _Stream, num_tokens: int) -> Answer:
    """What a stream says: of tokens that nobody can print, only that they were there."""
    times: list[float] = []
    usage: dict[str, int] = {}
    end = stream.sent
    for end, payload in _events(stream.pieces):
        event = json.loads(payload)
        usage = event.get("usage") or usage
        if any(choice["text"] for choice in event.get("choices", ())):
            times.append(end)
    if not usage:
        raise PeerError("a stream ended without usage")
    if usage["completion_tokens"] != num_tokens:
        raise PeerError(f"asked for {num_tokens} tokens, got {usage['completion_tokens']}")
    return Answer(stream.sent, tuple(times or [end]), usage["prompt_tokens"], usage["completion_tokens"])


def _events(pieces: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """The payload of each event up to the end mark, and when it was complete."""
    pending = b""
    for now, piece in _body(pieces):
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            if line.startswith(EVENT):
                payload = line[len(EVENT) :].strip()
                if payload == END:
                    return
                yield now, payload
    raise PeerError("a stream has no end mark")


def _body(pieces: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """The content of a chunked body (RFC 9112, 7.1) as it came. Raises PeerError where the status is not 200."""
    pending, is_body = b"", False
    for now, piece in pieces:
        pending += piece
        if not is_body:
            head, found, rest = pending.partition(b"\r\n\r\n")
            if not found:
                continue
            _require_chunks(head, rest)
            pending, is_body = rest, True
        while (size := _chunk_size(pending)) is not None:
            begin = pending.index(b"\r\n") + 2
            if len(pending) < begin + size + 2:
                break
            if size == 0:
                return
            yield now, pending[begin : begin + size]
            pending = pending[begin + size + 2 :]
    raise PeerError("a stream broke off")


def _chunk_size(data: bytes) -> int | None:
    """Of the chunk that begins here; None if its head is not complete."""
    line, found, _ = data.partition(b"\r\n")
    return int(line.partition(b";")[0], 16) if found else None


def _require_chunks(head: bytes, body: bytes) -> None:
    if not head.startswith(b"HTTP/1.1 200"):
        raise PeerError((head.splitlines()[0] + b" " + body[:1000]).decode(errors="replace"))
    if b"chunked" not in head.lower():
        raise PeerError("the stream is not chunked")
