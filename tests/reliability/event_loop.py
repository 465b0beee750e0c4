"""python -m tests.reliability.event_loop: how long the server's event loop is held up by large and hostile bodies.

The server has a heartbeat of a millisecond on its own loop (`heartbeat_server.py`), so the gaps are its own account.
In each phase four clients send one kind of body, each as soon as its last is answered, while four streams run.
"""

import argparse
import asyncio
import json
import random
import sys
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from app.bench.loop import in_loop
from tests.reliability.figures import Figure, percentile, verdict
from tests.reliability.server_process import add_options, serving, words_of
from tests.reliability.wire import Broken, Wire, request

NUM_SENDERS, NUM_STREAMS = 4, 4
MEGABYTE = 10**6
COMMAND = (sys.executable, "-m", "tests.reliability.heartbeat_server", "serve")
QUIET = "streams alone"


def bodies(size: int) -> dict[str, list[bytes]]:
    """Kinds of load, the requests of each: `size` bytes or a little less, unless it is named otherwise."""
    rng = random.Random(6)
    words = ("slot", "request", "step", "block", "token", "größe", "数字", "\n", "1984")
    text = " ".join(rng.choice(words) for _ in range(size // 7))[: size - 200]
    token_ids = [rng.randrange(10_000, 49_000) for _ in range(size // 7)]
    stops = [f"stop {number}" for number in range(10_000)]
    messages = [{"role": "user", "content": "a line of a chat"}] * (size // 50)
    return {
        QUIET: [],
        "text prompts": [_complete(prompt=text)],
        "prompts of token ids": [_complete(prompt=token_ids)],
        "one long message": [_chat([{"role": "user", "content": text}])],
        "many messages": [_chat(messages)],
        "messages that name special tokens": [_chat([{"role": "user", "content": "<|im_end|>" * (size // 11)}])],
        "lists of 10,000 stops": [_complete(prompt="x", stop=stops), _complete(prompt="x", bad_words=stops)],
        "texts to tokenize": [request("/tokenize", {"prompt": text})],
        "tokens to detokenize": [request("/detokenize", {"tokens": token_ids})],
        "junk": [request("/v1/completions", raw=junk) for junk in junk_bodies(size, rng)],
    }


def junk_bodies(size: int, rng: random.Random) -> list[bytes]:
    flat, pairs = b"[" + b"[]," * (size // 3), b"{" + b'"a":{"b":1},' * (size // 12)
    names = json.dumps({f"name{number}": number for number in range(size // 20)}).encode()
    return [
        rng.randbytes(size),
        b"[" * size,
        flat + b"[]]",
        flat,
        pairs + b'"c":1}',
        names,
        b"[" + b"1.5," * (size // 4) + b"1]",
        b"[" + b"1," * (size // 2) + b"1]",
        b'{"prompt":' + b"1" * (size - 20) + b"}",
        b'{"prompt":"' + rb"\ud800" * (size // 6) + b'"}',
        b'{"max_tokens":"' + b"9" * size + b'"}',
        b'{"prompt":' + b"[[1]," * (size // 5) + b"[1]",
    ]


def _complete(**fields: object) -> bytes:
    return request("/v1/completions", {"max_tokens": 4, **fields})


def _chat(messages: list[dict[str, str]]) -> bytes:
    return request("/v1/chat/completions", {"messages": messages, "max_tokens": 4})


@dataclass(frozen=True, slots=True)
class Phase:
    name: str
    gaps: Sequence[float]  # seconds
    statuses: Counter[int]

    @property
    def p99_9(self) -> float:
        return percentile(self.gaps, 99.9)

    @property
    def longest(self) -> float:
        return max(self.gaps, default=float("nan"))

    def figures(self) -> list[Figure]:
        """Of every phase in which there is more than streams."""
        told = ", ".join(f"{number} × {status}" for status, number in sorted(self.statuses.items()))
        name = f"{self.name} ({told})" if told else self.name
        is_judged = self.name != QUIET
        return [
            Figure(f"{name}: p99.9", self.p99_9 * 1000, "ms", "≤", 20 if is_judged else None),
            Figure("… the longest", self.longest * 1000, "ms", "≤", 100 if is_judged else None),
        ]


async def phase(wire: Wire, name: str, asks: Sequence[bytes], seconds: float) -> Phase:
    statuses = Counter[int]()
    await wire.ask(request("/heartbeat"))  # what was before does not count
    ended = asyncio.create_task(asyncio.sleep(seconds))
    await asyncio.gather(*(_send(wire, asks, number, ended, statuses) for number in range(NUM_SENDERS)), ended)
    beats = await wire.ask(request("/heartbeat"))
    return Phase(name, array("d", bytes(beats.body)), statuses)


async def _send(
    wire: Wire, asks: Sequence[bytes], turn: int, ended: asyncio.Task[None], statuses: Counter[int]
) -> None:
    while asks and not ended.done():
        try:
            statuses[(await wire.ask(asks[turn % len(asks)])).status] += 1
        except Broken:
            statuses[0] += 1
        turn += 1


async def _stream(wire: Wire, seed: int) -> None:
    """For as long as it is let."""
    body = {"prompt": [5000 + seed] * 32, "max_tokens": 512, "stream": True, "ignore_eos": True, "seed": seed}
    while True:
        await wire.ask(request("/v1/completions", body))


async def measure(port: int, seconds: float, size: int) -> list[Phase]:
    wire = Wire(port)
    streams = [asyncio.create_task(_stream(wire, seed)) for seed in range(NUM_STREAMS)]
    await asyncio.sleep(1)
    phases = [await phase(wire, name, asks, seconds) for name, asks in bodies(size).items()]
    for stream in streams:
        assert not stream.done(), stream
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    wire.close()
    return phases


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.event_loop")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of ten phases; default 10")
    parser.add_argument("--size", type=int, default=MEGABYTE, help="bytes of a body; default a megabyte")
    add_options(parser)
    given = parser.parse_args(arguments)
    with serving(words_of(given.model, given.flags), COMMAND) as server:
        phases = in_loop(measure(server.port, given.seconds, given.size))
    num_beats = min(len(each.gaps) for each in phases)
    return verdict(
        f"gaps of the event loop, bodies of {given.size:,} bytes",
        [figure for each in phases for figure in each.figures()],
        [f"a heartbeat that is due every ms; {num_beats} beats or more in each phase; status 0: the connection ended"],
    )


if __name__ == "__main__":
    sys.exit(main())
