"""python -m tests.reliability.kill: the process is killed (SIGKILL) under a supervisor while eight streams run.

Every client must see its connection end, the port must be free again, and the process that the supervisor starts must
be ready soon and answer as the one before did.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from app.bench.loop import in_loop
from tests.live_model import COMMAND
from tests.reliability.figures import Figure, verdict
from tests.reliability.server_process import (
    add_options,
    end,
    free_port,
    is_ready,
    spawn,
    tail,
    wait_until_ready,
    words_of,
)
from tests.reliability.wire import Answer, Broken, Wire, request

NUM_STREAMS = 8
PAUSE_S = 0.2  # of the supervisor, before it starts again
PATIENCE_S = 60.0
PROMPT = list(range(1, 17))


class Supervisor:
    """Starts a command again whenever it has ended, until it is told to stop."""

    def __init__(self, command: Sequence[str], log: IO[bytes]) -> None:
        self._command, self._log = command, log
        self._is_stopping = threading.Event()
        self.num_starts = 1
        self.process = spawn(command, log)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> int:
        """The status of the last process."""
        self._is_stopping.set()
        self._thread.join()
        if self.process.poll() is None:
            self.process.terminate()
        return end(self.process)

    def _watch(self) -> None:
        while not self._is_stopping.wait(PAUSE_S):
            if self.process.poll() is not None:
                self.process = spawn(self._command, self._log)
                self.num_starts += 1


@contextmanager
def supervised(command: Sequence[str], port: int) -> Iterator[Supervisor]:
    with tempfile.TemporaryFile() as log:
        supervisor = Supervisor([*command, "--port", str(port)], log)
        try:
            wait_until_ready(supervisor.process, port, log)
            yield supervisor
        except Exception:
            sys.stderr.write(tail(log))
            raise
        finally:
            supervisor.stop()


@dataclass(frozen=True, slots=True)
class Outcome:
    num_ended: int  # streams whose client saw the connection end
    slowest_end: float  # seconds from the kill until the last of them did
    until_ready: float
    num_starts: int
    is_equal: bool  # the same answer as before


async def kill_and_watch(supervisor: Supervisor, port: int, max_tokens: int) -> Outcome:
    wire = Wire(port)
    before = await _greedy(wire)
    begun = [asyncio.Event() for _ in range(NUM_STREAMS)]
    streams = [asyncio.create_task(_stream(wire, max_tokens, event)) for event in begun]
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(event.wait() for event in begun))
    killed = time.perf_counter()
    os.kill(supervisor.process.pid, signal.SIGKILL)
    done, hanging = await asyncio.wait(streams, timeout=PATIENCE_S)
    slowest = time.perf_counter() - killed
    for stream in hanging:
        stream.cancel()
    deadline = killed + PATIENCE_S
    while not await asyncio.to_thread(is_ready, port):
        if time.perf_counter() > deadline:
            return Outcome(_num_ended(done), slowest, float("nan"), supervisor.num_starts, is_equal=False)
        await asyncio.sleep(0.02)
    until_ready = time.perf_counter() - killed
    after = await _greedy(wire)
    wire.close()
    return Outcome(_num_ended(done), slowest, until_ready, supervisor.num_starts, before == after)


def _num_ended(streams: set[asyncio.Task[Answer]]) -> int:
    return sum(isinstance(stream.exception(), Broken) for stream in streams)


async def _stream(wire: Wire, max_tokens: int, begun: asyncio.Event) -> Answer:
    body = {"prompt": PROMPT, "max_tokens": max_tokens, "stream": True, "ignore_eos": True}
    return await wire.ask(request("/v1/completions", body), lambda _: begun.set())


async def _greedy(wire: Wire) -> list[str]:
    body = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    answer = await wire.ask(request("/v1/completions", body))
    return [choice["text"] for choice in answer.json()["choices"]]


def figures_of(outcome: Outcome) -> list[Figure]:
    return [
        Figure("streams whose client saw the end", outcome.num_ended, f"of {NUM_STREAMS}", "=", NUM_STREAMS),
        Figure("… the last after", outcome.slowest_end * 1000, "ms", "≤", 1000),
        Figure("starts", outcome.num_starts, "", "=", 2),
        Figure("ready again after", outcome.until_ready, "s", "≤", 30),
        Figure("the same greedy answer as before", outcome.is_equal, "", "=", True),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.kill")
    add_options(parser)
    given = parser.parse_args(arguments)
    port = free_port()
    with supervised([*COMMAND, *words_of(given.model, given.flags)], port) as supervisor:
        outcome = in_loop(kill_and_watch(supervisor, port, 2000))
    return verdict("kill -9 under a supervisor", figures_of(outcome))


if __name__ == "__main__":
    sys.exit(main())
