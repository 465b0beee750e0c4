"""The real server with the default model, as a user starts it: a process of its own."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

COMMAND = (sys.executable, "-c", "import sys; from app.cli import main; sys.exit(main())", "serve")
SECONDS_TO_START = 240  # the first time, with the model to fetch


@dataclass(frozen=True)
class LiveModel:
    url: str
    pid: int

    def post(self, route: str, **body: Any) -> dict[str, Any]:
        data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
        request = urllib.request.Request(self.url + route, data, headers)
        with urllib.request.urlopen(request, timeout=240) as answer:
            return dict(json.load(answer))

    def post_together(self, route: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(lambda body: self.post(route, **body), bodies))

    def slots(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + "/slots", timeout=60) as answer:
            return dict(json.load(answer))


@contextmanager
def serve_model(*options: str, command: Sequence[str] = COMMAND) -> Iterator[LiveModel]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    process = subprocess.Popen([*command, "--port", port, *options], stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, url)
        yield LiveModel(url, process.pid)
    finally:
        process.terminate()
        assert process.wait(30) == 0


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        assert process.poll() is None, "the server ended while it started"
        assert time.monotonic() < deadline, "the server does not start"
        try:
            with urllib.request.urlopen(url + "/health/ready", timeout=5):
                return
        except urllib.error.URLError:
            time.sleep(0.1)
