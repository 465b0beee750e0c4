"""`slotwise serve` with a fake model, as a process of its own (`tests/serve_fake.py`)."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
PATIENCE_S = 60  # before a test gives up on a process; none is expected to need it


class Process:
    """A running command, what it has printed so far, and where it listens once its banner has come."""

    def __init__(self, folder: Path, behaviour: str, *words: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SLOTWISE_")}
        command = [sys.executable, "-m", "tests.serve_fake", behaviour, "serve", *words]
        self._folder = folder
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            self.popen = subprocess.Popen(command, cwd=ROOT, env=clean, stdin=subprocess.PIPE, stdout=out, stderr=err)

    @property
    def out(self) -> str:
        return (self._folder / "out").read_text()

    @property
    def err(self) -> str:
        """Without the line of the log that says which model is loaded."""
        text = (self._folder / "err").read_text()
        return re.sub(r"^\S+ \S+ INFO app\.main: loading folder/fake\.gguf\n", "", text, flags=re.MULTILINE)

    def wait_until(self, is_reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_reached():
            assert self.popen.poll() is None, f"it ended: {self.out}{self.err}"
            assert time.monotonic() < deadline, f"it does not come: {self.out}{self.err}"
            time.sleep(0.01)

    def wait_until_loading(self) -> None:
        self.wait_until(lambda: "loading" in self.err)

    @property
    def url(self) -> str:
        self.wait_until(lambda: "\ncurl " in self.out)
        return re.findall(r"API +(http://\S+)/v1", self.out)[0]

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def status(self) -> int:
        return self.popen.wait(PATIENCE_S)


@contextmanager
def open_stream(url: str, max_tokens: int = 1000) -> Iterator[Iterator[str]]:
    """The lines of a stream whose first token has come."""
    body = {"prompt": "x", "max_tokens": max_tokens, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=PATIENCE_S) as response:
        lines = response.iter_lines()
        next(lines)
        yield lines
