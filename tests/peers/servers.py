"""Servers as processes: how each is started, when it is ready, and that it is gone afterwards.

A `Peer` is whatever can be started and then measured; `HttpPeer` is one of those that speak OpenAI's API. Where a
program is and which flags it gets comes from the caller.
"""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from tests.live_model import COMMAND
from tests.peers.client import Address, PeerError, measure
from tests.peers.workload import Figures, Workload

HOST = "127.0.0.1"
SECONDS_TO_START = 300  # vLLM compiles
SECONDS_TO_STOP = 30
LOG_TAIL = 3000  # bytes
CONTEXT = 2048  # tokens a request may have; every workload fits


class Running(Protocol):
    @property
    def pid(self) -> int: ...

    def measure(self, workload: Workload) -> Figures: ...


class Peer(Protocol):
    @property
    def name(self) -> str: ...

    def start(self) -> AbstractContextManager[Running]:
        """Running, warm and alone, until it is left. Raises PeerError."""
        ...


@dataclass(frozen=True, slots=True)
class RunningServer:
    pid: int
    address: Address

    def measure(self, workload: Workload) -> Figures:
        measure(self.address, workload.warm_up())
        return measure(self.address, workload)


@dataclass(frozen=True, slots=True)
class HttpPeer:
    """`command` holds a {port}, which is filled in."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def start(self) -> Iterator[RunningServer]:
        port = _free_port()
        command = [word.replace("{port}", str(port)) for word in self.command]
        with tempfile.TemporaryFile() as log, _process(command, self.environment, log) as process:
            _wait_until_ready(process, port, log)
            yield RunningServer(process.pid, Address(HOST, port, _model_name(port)))


def slotwise(model: str, threads: int, flags: Sequence[str]) -> HttpPeer:
    """This checkout's own server, in this interpreter."""
    options = ("--host", HOST, "--port", "{port}", "--threads", str(threads), "--log-level", "warning")
    return HttpPeer("slotwise", (*COMMAND, model, *options, *flags))


def llama_server(program: str, model: str, threads: int, slots: int, flags: Sequence[str]) -> HttpPeer:
    options = ("-t", str(threads), "-np", str(slots), "-c", str(slots * CONTEXT), "-cb", "--no-webui")
    command = (program, "-m", model, *options, "--host", HOST, "--port", "{port}", *flags)
    return HttpPeer(f"llama-server {Path(model).stem}", command)


def vllm(program: str, model: str, slots: int, flags: Sequence[str]) -> HttpPeer:
    options = ("--max-model-len", str(CONTEXT), "--max-num-seqs", str(2 * slots))
    command = (program, "serve", model, "--host", HOST, "--port", "{port}", *options, *flags)
    return HttpPeer(f"vLLM {Path(model).name}", command, {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "4"})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def _process(
    command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]
) -> Iterator["subprocess.Popen[bytes]"]:
    """In a process group of its own, all of which ends with it: vLLM's engine is a child."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT, process_group=0
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: IO[bytes]) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL))
            raise PeerError(f"{process.args!r} does not start:\n{log.read().decode(errors='replace')}")
        time.sleep(0.1)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _model_name(port: int) -> str:
    with urllib.request.urlopen(f"http://{HOST}:{port}/v1/models", timeout=5) as answer:
        return str(json.load(answer)["data"][0]["id"])
