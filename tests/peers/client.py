"""The load-test client: a closed loop of streamed completions against any server that speaks OpenAI's `/v1/completions`
with token ids as the prompt.

It shares its cores with the server, so it does little: asyncio on plain sockets, a connection for each request. It
knows nothing of how a server is started.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
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
    answers = asyncio.run(_load(address, workload))
    return Figures.of(answers, time.process_time() - cpu)


async def _load(address: Address, workload: Workload) -> list[Answer]:
    requests = [_request(address, workload, number) for number in range(workload.num_requests)]
    numbers = count()
    answers: list[Answer] = []

    async def work() -> None:
        while (number := next(numbers)) < len(requests):
            answers.append(await _ask(address, requests[number], workload))

    async with asyncio.TaskGroup() as workers:
        for _ in range(workload.concurrency):
            workers.create_task(work())
    return answers


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


async def _ask(address: Address, request: bytes, workload: Workload) -> Answer:
    sent = time.perf_counter()
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(request)
        answer = await _read_answer(reader, sent)
    except EOFError as error:
        raise PeerError("a stream broke off") from error
    finally:
        writer.close()
    if answer.output_tokens != workload.output_tokens:
        raise PeerError(f"asked for {workload.output_tokens} tokens, got {answer.output_tokens}")
    return answer


async def _read_answer(reader: asyncio.StreamReader, sent: float) -> Answer:
    times: list[float] = []
    usage: dict[str, int] = {}
    async for payload in _events(reader):
        now = time.perf_counter()
        event = json.loads(payload)
        usage = event.get("usage") or usage
        if any(choice["text"] for choice in event.get("choices", ())):
            times.append(now)
    if not times or not usage:
        raise PeerError("a stream ended without text or without usage")
    return Answer(sent, tuple(times), usage["prompt_tokens"], usage["completion_tokens"])


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The payload of each event, as it comes, up to the end mark."""
    pending = b""
    async for piece in _body(reader):
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            if line.startswith(EVENT):
                payload = line[len(EVENT) :].strip()
                if payload == END:
                    return
                yield payload
    raise PeerError("a stream has no end mark")


async def _body(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The pieces of a chunked body (RFC 9112, 7.1). Raises PeerError where the status is not 200."""
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise PeerError((head.splitlines()[0] + b" " + await reader.read(1000)).decode(errors="replace"))
    if b"chunked" not in head.lower():
        raise PeerError("the stream is not chunked")
    while size := int((await reader.readline()).partition(b";")[0] or b"0", 16):
        yield (await reader.readexactly(size + 2))[:size]
