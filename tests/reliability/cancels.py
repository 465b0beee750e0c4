"""Clients that go away: over raw sockets, streamed and not, chats and completions, at once, in the queue, in prefill,
in decode and at the end; closed in order or reset. What is measured is the time from close() until the slot is free.

python -m tests.reliability.cancels --num 10000 [--seed 0] [MODEL]

Starts the server with the default model (or MODEL), and ends with status 1 where a slot is left, a request has not
exactly one end, a phase was never hit, or more than one in a hundred took longer than one step and 100 ms: the step
that was running when the client left, or began next. All times are of the machine's monotonic clock, taken by the
client at close() and by the engine when the slot is free: the resolution is microseconds, and nothing is polled.
"""

import argparse
import asyncio
import json
import math
import socket
import sys
import tempfile
import time
import urllib.request
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from tests.live_model import serve_model
from tests.reliability.noted_ends import End, Note, Step, read_notes

SECONDS = 120.0  # for anything
SECONDS_TO_BE_EMPTY = 10.0
LIMIT_BESIDE_A_STEP = 0.1
RESET = b"\1\0\0\0\0\0\0\0"  # linger on, for no time
PHASES = ("queue", "prefill", "decode", "ended")
NUM_CLIENTS, NUM_SLOTS = 12, 8  # so that some wait


class Aim(StrEnum):
    """When a client leaves; where its request is then is for the server to say."""

    AT_ONCE = "at once"
    SOON = "soon"
    IN_PREFILL = "in prefill"  # of a long prompt
    IN_DECODE = "in decode"
    AT_THE_END = "at the end"  # of a short answer


@dataclass(frozen=True)
class Cancel:
    request_id: str
    is_streamed: bool
    at: float  # when its socket was closed


@dataclass(frozen=True)
class Client:
    """Asks and leaves. `long_prompt`, `long_answer`: tokens."""

    host: str
    port: int
    rng: Random
    long_prompt: int
    long_answer: int
    longest_wait: float = 0.5

    async def ask_and_leave(self, number: int) -> Cancel:
        rng, request_id = self.rng, f"cancel-{number}"
        aim, is_streamed, resets = rng.choice([*Aim]), rng.random() < 0.5, rng.random() < 0.5
        request = self._request(request_id, aim, is_streamed)
        client = socket.socket()
        client.setblocking(False)
        async with asyncio.timeout(SECONDS):
            await asyncio.get_running_loop().sock_connect(client, (self.host, self.port))
            await asyncio.get_running_loop().sock_sendall(client, request)
            await self._wait(client, aim, is_streamed)
        if resets:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        left = time.monotonic()
        client.close()
        return Cancel(request_id, is_streamed, left)

    def _request(self, request_id: str, aim: Aim, is_streamed: bool) -> bytes:
        num_tokens = self.long_prompt if aim is Aim.IN_PREFILL else self.rng.randint(1, 40)
        max_tokens = self.rng.randint(1, 4) if aim is Aim.AT_THE_END else self.long_answer
        body: dict[str, Any] = {"max_tokens": max_tokens, "ignore_eos": True, "stream": is_streamed}
        if aim is Aim.IN_PREFILL:
            body["priority"] = -10  # first of those that wait: it is read while its client is still there
        if self.rng.random() < 0.5:
            route, body["prompt"] = "/v1/completions", self.rng.choices(range(1, 256), k=num_tokens)
        else:
            route, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": "a " * num_tokens}]
        content = json.dumps(body).encode()
        head = (
            f"POST {route} HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n"
            f"x-request-id: {request_id}\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content

    async def _wait(self, client: socket.socket, aim: Aim, is_streamed: bool) -> None:
        if aim is Aim.AT_ONCE:
            return
        if aim is Aim.AT_THE_END:
            await _read_until(client, b'"finish_reason":"length"')
        elif aim is Aim.IN_DECODE and is_streamed:
            await _read_until(client, b"data:")
        if aim is not Aim.AT_THE_END:
            await asyncio.sleep(self.rng.uniform(0, self.longest_wait))


async def _read_until(client: socket.socket, words: bytes) -> None:
    received = b""
    while words not in received:
        piece = await asyncio.get_running_loop().sock_recv(client, 65536)
        assert piece, f"the server closed: {received[:500]!r}"
        assert received or piece.startswith(b"HTTP/1.1 200 "), piece[:500]
        received += piece


async def leave_again_and_again(client: Client, how_many: int, num_clients: int) -> list[Cancel]:
    numbers, cancels = iter(range(how_many)), list[Cancel]()

    async def one_after_the_other() -> None:
        for number in numbers:
            cancels.append(await client.ask_and_leave(number))

    async with asyncio.TaskGroup() as group:
        for _ in range(num_clients):
            group.create_task(one_after_the_other())
    return cancels


@dataclass(frozen=True)
class Outcome:
    """What became of the cancelled requests."""

    phases: Counter[tuple[str, bool]]  # where they were, and whether streamed
    seconds: list[float]  # from leaving until the slot was free, of those that had not ended before
    beside_a_step: list[float]  # the same, without that step
    wrong: list[str]

    @property
    def never_hit(self) -> list[str]:
        wanted = [(phase, is_streamed) for phase in PHASES for is_streamed in (True, False)]
        return [f"{phase}, {'' if is_streamed else 'not '}streamed" for phase, is_streamed in wanted
                if not self.phases[phase, is_streamed]]  # fmt: skip


def outcome_of(cancels: Iterable[Cancel], notes: Sequence[Note]) -> Outcome:
    steps = sorted((note for note in notes if isinstance(note, Step)), key=lambda step: step.ended)
    by_id: dict[str, list[End]] = {}
    for note in notes:
        if isinstance(note, End):
            by_id.setdefault(note.request_id, []).append(note)
    outcome = Outcome(Counter(), [], [], [])
    for cancel in cancels:
        its_ends = by_id.get(cancel.request_id, [])
        if not its_ends:  # it had gone before the engine heard of it
            outcome.phases["never submitted", cancel.is_streamed] += 1
            continue
        (end, *more) = its_ends
        if more or end.reason not in ("abort", "length"):
            outcome.wrong.append(f"{cancel.request_id}: {its_ends}")
        has_ended = end.at <= cancel.at
        outcome.phases["ended" if has_ended else end.phase, cancel.is_streamed] += 1
        if not has_ended:
            outcome.seconds.append(end.at - cancel.at)
            outcome.beside_a_step.append(max(0.0, end.at - cancel.at - step_at(cancel.at, steps)))
    return outcome


def step_at(moment: float, steps: Sequence[Step]) -> float:
    """How long the step takes that is running then, or that begins next; 0 where there is none."""
    place = bisect_right(steps, moment, key=lambda step: step.ended)
    return steps[place].ended - steps[place].started if place < len(steps) else 0.0


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


def slots_left(url: str) -> int:
    """Once nothing is open, or after some time: live slots, open requests, and whether blocks are in use."""
    deadline = time.monotonic() + SECONDS_TO_BE_EMPTY
    while True:
        slots = json.loads(_get(url + "/slots"))
        left = len(slots["slots"]) + len(json.loads(_get(url + "/v1/requests"))["data"])
        left = left or slots["blocks"]["used"]
        if not left or time.monotonic() > deadline:
            return int(left)
        time.sleep(0.01)


def mean_step(url: str) -> float:
    lines = _get(url + "/metrics").splitlines()
    total, number = (
        next(float(line.split()[-1]) for line in lines if line.startswith(f"slotwise_step_seconds_{name} "))
        for name in ("sum", "count")
    )
    return total / number


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        return str(answer.read(), "utf-8")


def verdict(outcome: Outcome, num_left: int, step: float) -> tuple[str, bool]:
    """In words, and whether all is well."""
    phases = Counter[str]()
    for (phase, is_streamed), number in sorted(outcome.phases.items()):
        phases[f"{phase} {'streamed' if is_streamed else 'whole'}"] += number
    lines = [
        f"cancelled: {phases.total()} (" + ", ".join(f"{phase} {number}" for phase, number in phases.items()) + ")",
        f"slots left: {num_left}; requests without exactly one end: {len(outcome.wrong)} {outcome.wrong[:3]}",
        f"from close() until the slot is free: {in_words(outcome.seconds)}",
        f"the mean step of /metrics: {step * 1e3:.1f} ms",
        f"without the step that was running then: {in_words(outcome.beside_a_step)}",
        f"never hit: {outcome.never_hit}",
    ]
    is_quick = percentile(outcome.beside_a_step, 0.99) <= LIMIT_BESIDE_A_STEP
    is_well = is_quick and not (num_left or outcome.wrong or outcome.never_hit)
    return "\n".join([*lines, "held" if is_well else "MISSED"]), is_well


def in_words(seconds: Iterable[float]) -> str:
    p50, p99, longest = (percentile(seconds, share) * 1e3 for share in (0.5, 0.99, 1))
    return f"p50 {p50:.1f}, p99 {p99:.1f}, max {longest:.1f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.cancels")
    parser.add_argument("model", nargs="*", help="default: the default model")
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "ends"
        command = (sys.executable, "-m", "tests.reliability.noted_ends", str(notes), "serve")
        with serve_model(*options.model, "--max-num-seqs", str(NUM_SLOTS), command=command) as server:
            address = urlsplit(server.url)
            client = Client(address.hostname or "", address.port or 0, Random(options.seed), 1500, 400)
            cancels = asyncio.run(leave_again_and_again(client, options.num, NUM_CLIENTS))
            num_left, step = slots_left(server.url), mean_step(server.url)
        words, is_well = verdict(outcome_of(cancels, read_notes(notes)), num_left, step)
    sys.stdout.write(words + "\n")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
