"""A server whose answers and whose times are written down beforehand, and which notes when it really wrote what.

It runs in the test's own event loop, so that a busy machine delays it and its client alike.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(text: str = "", finish_reason: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"choices": [choice], **fields}).encode() + b"\n\n"


def usage(prompt_tokens: int, output_tokens: int) -> bytes:
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": output_tokens}
    return b"data: " + json.dumps({"choices": [], "usage": counts}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Stream:
    """A streamed answer: seconds before each token, then usage and the end."""

    delays: Sequence[float]
    prompt_tokens: int = 3
    tail: Sequence[bytes] | None = None  # instead of usage and end mark

    def end(self) -> Sequence[bytes]:
        return (usage(self.prompt_tokens, len(self.delays)), DONE) if self.tail is None else self.tail


@dataclass(frozen=True)
class Raw:
    """Bytes as they are, then perhaps a closed connection; with none, silence."""

    data: bytes
    closes: bool = True


@dataclass
class Exchange:
    """What was asked, and when what was answered."""

    body: dict[str, Any]
    head: str
    arrived: float
    written: list[float] = field(default_factory=list)  # of each token


Script = Callable[[int], Stream | Raw]  # the number of a request → what it is answered


@dataclass
class ScriptedServer:
    script: Script
    port: int = 0
    exchanges: list[Exchange] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    num_connections: int = 0
    in_flight: int = 0
    max_in_flight: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client is gone, or the test is over
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether another may follow."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:"))
        body = json.loads(await reader.readexactly(length) or "{}")
        if not head.startswith("POST"):
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        exchange = Exchange(body, head, time.perf_counter())
        self.exchanges.append(exchange)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            return await self._answer(self.script(len(self.exchanges) - 1), exchange, writer)
        finally:
            self.in_flight -= 1

    async def _answer(self, answer: Stream | Raw, exchange: Exchange, writer: asyncio.StreamWriter) -> bool:
        if isinstance(answer, Raw):
            writer.write(answer.data)
            return not answer.closes
        writer.write(CHUNKED)
        for delay in answer.delays:
            await asyncio.sleep(delay)
            _write_chunk(writer, event("x"))
            exchange.written.append(time.perf_counter())
            await writer.drain()
        for data in answer.end():
            _write_chunk(writer, data)
        writer.write(b"0\r\n\r\n")
        return True


def _write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


@asynccontextmanager
async def scripted(script: Script | Stream | Raw, tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer(script if callable(script) else lambda number: script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in server.tasks:
            task.cancel()
        await asyncio.gather(*server.tasks)


def page(status: str, body: bytes) -> Raw:
    """A whole HTTP answer."""
    return Raw(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body, closes=False)
