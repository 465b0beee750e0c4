"""Every grammar is tried out in a process of its own before it is compiled in this one. Starts that process, speaks
with it, and starts another where it ended; what it does is written in `trial`."""

import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

TOO_MUCH = "takes too much to compile; fewer patterns, repetitions and intersections may do"


class GrammarTrials:
    """Used by one thread at a time. The process starts at the first trial, and ends with this object or Python."""

    def __init__(self, token_bytes: Sequence[bytes], special_token_ids: frozenset[int]) -> None:
        special = {token_id: token_bytes[token_id].decode(errors="replace") for token_id in special_token_ids}
        self._vocabulary = json.dumps({"size": len(token_bytes), "special": special})
        self._process: subprocess.Popen[str] | None = None
        self._end: Callable[[], object] = lambda: None

    def problem_of(self, lark: str) -> str:
        """What is wrong with a grammar in Lark form; "": nothing."""
        process = self._running()
        answer = _ask(process, f"{json.dumps(lark)}\n")
        if not answer:  # it ended itself, or was ended, over this grammar
            self._end()
            return TOO_MUCH
        problem: str = json.loads(answer)
        return problem

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-P", Path(__file__).with_name("trial.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # what a library says that gives up
                encoding="utf-8",
                start_new_session=True,  # a Ctrl-C is for the server, which ends this one
            )
            self._end = weakref.finalize(self, _end, self._process)
            _tell(self._process, f"{self._vocabulary}\n")
        return self._process


def _ask(process: "subprocess.Popen[str]", line: str) -> str:
    """The answer, or "" from a process that is no more."""
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        _tell(process, line)
        return process.stdout.readline()
    return ""


def _tell(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()
