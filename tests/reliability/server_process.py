"""`slotwise serve` as a process: its start, what the system says of it while it runs, its end."""

import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from tests.live_model import COMMAND

ROOT = Path(__file__).parents[2]
SECONDS_TO_START = 240  # the first time, with the model to fetch
SECONDS_TO_STOP = 40
LOG_TAIL = 4000
MB = 2**20


@dataclass(frozen=True, slots=True)
class Usage:
    """Of the process and those it started; bytes. RSS alone would not show what was swapped out."""

    anonymous: int
    swapped: int
    descriptors: int
    threads: int

    @property
    def memory(self) -> int:
        return self.anonymous + self.swapped


def usage_of(pid: int) -> Usage:
    process = psutil.Process(pid)
    fields = [_status(each.pid) for each in (process, *process.children(recursive=True))]
    return Usage(
        anonymous=sum(each["RssAnon"] for each in fields) * 1024,
        swapped=sum(each["VmSwap"] for each in fields) * 1024,
        descriptors=process.num_fds(),
        threads=process.num_threads(),
    )


def _status(pid: int) -> dict[str, int]:
    text = Path(f"/proc/{pid}/status").read_text()
    return {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+)(?: kB)?$", text, re.MULTILINE)}


@dataclass(frozen=True, slots=True)
class Serving:
    port: int
    pid: int

    def usage(self) -> Usage:
        return usage_of(self.pid)


def add_options(parser: ArgumentParser) -> None:
    """What every command has."""
    parser.add_argument("--model", help="as for `slotwise serve`; default: the model that it fetches")
    parser.add_argument("--flags", default="", metavar="'--a 1 --b 2'", help="further options for `slotwise serve`")


def words_of(model: str | None, flags: str, *options: str) -> list[str]:
    return [*([model] if model else []), *options, *flags.split()]


def free_port() -> int:
    with socket.socket() as finder:
        finder.bind(("127.0.0.1", 0))
        port: int = finder.getsockname()[1]
        return port


@contextmanager
def serving(words: Sequence[str], command: Sequence[str] = COMMAND) -> Iterator[Serving]:
    """Ready on a free port, until it is left; then it must end in order. Raises RuntimeError with its log if it does
    not start, ends before its time, or ends otherwise than with status 0."""
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = spawn([*command, *words, "--port", str(port), "--log-level", "warning"], log)
        try:
            wait_until_ready(process, port, log)
            yield Serving(port, process.pid)
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}:\n{tail(log)}")
        finally:
            process.terminate()
            status = end(process)
        if status != 0:
            raise RuntimeError(f"the server's exit status is {status}:\n{tail(log)}")


def spawn(command: Sequence[str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLOTWISE_")}
    return subprocess.Popen(command, cwd=ROOT, env=clean, stdout=log, stderr=log)


def end(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: IO[bytes]) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while not is_ready(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server does not start:\n{tail(log)}")
        time.sleep(0.05)


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5):
            return True
    except OSError:
        return False


def tail(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read()[-LOG_TAIL:].decode(errors="replace")
