"""python -m tests.reliability.soak: mixed load for an hour, and what grew meanwhile.

Clients that ask one request after another: chats and completions of unequal lengths, streamed and not, with grammars
and tools now and then; a fifth leaves in the middle, some send what must be refused, some read a byte a second or stop
reading. Every request must come to an end that its client can tell: an answer, a refusal, its own leaving.
"""

import argparse
import asyncio
import json
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from app.bench.loop import in_loop
from tests.reliability.figures import Figure, slope, verdict
from tests.reliability.server_process import MB, Serving, Usage, add_options, serving, words_of
from tests.reliability.wire import HOST, Broken, Wire, request

WIDTH = 8
SAMPLE_S = 10.0
WARM_UP = 1 / 6  # of the time; ten minutes of an hour
PATIENCE_S = 120.0  # of a client, for an answer
SLOW_S = 20.0  # that a slow reader stays
KINDS: Mapping[str, float] = {"ask": 0.73, "leave": 0.20, "bad": 0.05, "slow": 0.02}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
WORDS = ("why", "is", "the", "sky", "blue", "and", "so", "wide")
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
BAD: Sequence[dict[str, Any]] = (
    {"prompt": "x", "max_tokens": -1},
    {"prompt": "x", "temperature": "hot"},
    {"prompt": [10**6]},
    {"prompt": "x", "n": 10**9},
    {"prompt": "word " * 20_000},
    {"prompt": "x", "stop": ["s"] * 10_000},
    {"prompt": "x", "structured_outputs": {"regex": "("}},
    {"prompt": "x", "model": "another"},
)


@dataclass(frozen=True, slots=True)
class Sample:
    seconds: float
    usage: Usage
    num_slots: int
    blocks_used: int
    num_ended: int


@dataclass(slots=True)
class Record:
    """What came of the requests, by their kind and end."""

    ends: Counter[str] = field(default_factory=Counter)
    num_lost: int = 0  # no end that a client can tell, or the server's own failure
    samples: list[Sample] = field(default_factory=list)
    slots_left: int = -1

    def end(self, kind: str, what: str, *, is_lost: bool = False) -> None:
        self.ends[f"{kind}: {what}"] += 1
        self.num_lost += is_lost


class Visitor:
    """One client, one request at a time."""

    def __init__(self, wire: Wire, record: Record, seed: int) -> None:
        self._wire, self._record = wire, record
        self._rng = random.Random(seed)

    async def stay(self, until: float) -> None:
        visits = {"ask": self._ask, "leave": self._leave, "bad": self._bad, "slow": self._slow}
        while time.monotonic() < until:
            (kind,) = self._rng.choices(list(KINDS), list(KINDS.values()))
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await visits[kind]()
            except TimeoutError:
                self._record.end(kind, "no end", is_lost=True)
            except Broken as error:
                self._record.end(kind, f"broken: {error}", is_lost=True)

    async def _ask(self) -> None:
        path, body = self._body()
        answer = await self._wire.ask(request(path, body))
        is_whole = not body["stream"] or answer.body.endswith(b"data: [DONE]\n\n")
        is_lost = answer.status >= 500 or (answer.status == 200 and not is_whole) or b'"error":' in answer.body[:10]
        self._record.end("ask", str(answer.status), is_lost=is_lost)

    async def _leave(self) -> None:
        """At any moment: before the first token, or behind some."""
        path, body = self._body()
        asking = asyncio.create_task(self._wire.ask(request(path, body | {"max_tokens": 400})))
        await asyncio.wait([asking], timeout=self._rng.expovariate(2))
        if asking.done():
            self._record.end("leave", f"{asking.result().status} before it left")
            return
        asking.cancel()
        await asyncio.wait([asking])
        self._record.end("leave", "left")

    async def _bad(self) -> None:
        answer = await self._wire.ask(request("/v1/completions", self._rng.choice(BAD)))
        self._record.end("bad", str(answer.status), is_lost=not 400 <= answer.status < 500)

    async def _slow(self) -> None:
        """A socket with a small buffer, of which a byte is read each second, or nothing."""
        data = request("/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 1000, "ignore_eos": True})
        loop, reads = asyncio.get_running_loop(), self._rng.random() < 0.5
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await loop.sock_connect(sock, (HOST, self._wire.port))
            await loop.sock_sendall(sock, data)
            for _ in range(int(SLOW_S)):
                await asyncio.sleep(1)
                try:
                    if reads and not await loop.sock_recv(sock, 1):
                        break
                except ConnectionError:
                    break
        self._record.end("slow", "left")

    def _body(self) -> tuple[str, dict[str, Any]]:
        rng = self._rng
        words = " ".join(rng.choices(WORDS, k=_length(rng)))
        fields: dict[str, Any] = {"max_tokens": rng.randint(1, 128), "seed": rng.getrandbits(32)}
        fields["stream"] = rng.random() < 0.5
        if rng.random() < 0.05:
            fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
        if rng.random() < 0.5:
            return "/v1/completions", fields | {"prompt": words, "logprobs": rng.choice((None, 2))}
        if rng.random() < 0.1:
            fields |= {"tools": [TOOL], "tool_choice": rng.choice(("auto", "required"))}
            fields.pop("response_format", None)
        return "/v1/chat/completions", fields | {"messages": [{"role": "user", "content": words}]}


def _length(rng: random.Random) -> int:
    """Mostly short, sometimes some thousand words."""
    return min(int(rng.lognormvariate(4, 1.2)) + 1, 3000)


async def _sample(wire: Wire, server: Serving, record: Record, began: float) -> None:
    while True:
        slots = await wire.get("/slots")
        seconds, ended = time.monotonic() - began, sum(record.ends.values())
        record.samples.append(Sample(seconds, server.usage(), len(slots["slots"]), slots["blocks"]["used"], ended))
        await asyncio.sleep(SAMPLE_S)


async def measure(server: Serving, minutes: float, seed: int) -> Record:
    wire, record, began = Wire(server.port), Record(), time.monotonic()
    sampling = asyncio.create_task(_sample(wire, server, record, began))
    visitors = [Visitor(wire, record, seed + number) for number in range(WIDTH)]
    await asyncio.gather(*(visitor.stay(began + minutes * 60) for visitor in visitors))
    if sampling.done():
        sampling.result()
    sampling.cancel()
    await asyncio.sleep(1)
    record.slots_left = len((await wire.get("/slots"))["slots"])
    wire.close()
    return record


def figures_of(record: Record, minutes: float) -> list[Figure]:
    settled = [sample for sample in record.samples if sample.seconds >= WARM_UP * minutes * 60]
    hours = [sample.seconds / 3600 for sample in settled]
    usages = [sample.usage for sample in settled]
    return [
        Figure("requests", sum(record.ends.values()), "", "≥", 1),
        Figure("lost", record.num_lost, "", "=", 0),
        Figure("slots left", record.slots_left, "", "=", 0),
        Figure("RssAnon + VmSwap at the end", usages[-1].memory / MB if usages else float("nan"), "MB"),
        Figure("… slope behind the warm-up", slope(hours, [usage.memory / MB for usage in usages]), "MB/h", "<", 2),
        Figure("descriptors, growth between halves", _growth([usage.descriptors for usage in usages]), "", "≤", 2),
        Figure("threads, growth between halves", _growth([usage.threads for usage in usages]), "", "≤", 1),
    ]


def _growth(values: Sequence[int]) -> float:
    """Of the highest, from the first half to the second: connections come and go."""
    middle = len(values) // 2
    return max(values[middle:]) - max(values[:middle]) if middle else float("nan")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.soak")
    parser.add_argument("--minutes", type=float, default=60.0, help="default 60")
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the samples are written")
    add_options(parser)
    given = parser.parse_args(arguments)
    with serving(words_of(given.model, given.flags)) as server:
        record = in_loop(measure(server, given.minutes, given.seed))
    if given.json:
        given.json.write_text(json.dumps({"ends": record.ends, "samples": [asdict(each) for each in record.samples]}))
    notes = [f"{number} × {end}" for end, number in sorted(record.ends.items())]
    return verdict(f"soak, {given.minutes:g} minutes", figures_of(record, given.minutes), notes)


if __name__ == "__main__":
    sys.exit(main())
