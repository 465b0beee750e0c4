"""Runs the checks of one program against a server, inside the client's own environment: nothing but the standard
library is imported here, and nothing of slotwise.

    python run_checks.py PROGRAM URL MODEL

A check is a public function of the program, or a coroutine; it is given the server's URL and the model's name, and
fails by raising. What goes to standard output is one JSON object: the trace of each check, empty where it held, or the
module that is not installed.
"""

import asyncio
import contextlib
import inspect
import json
import runpy
import sys
import traceback
from collections.abc import Callable
from typing import Any


def main(program: str, url: str, model: str) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        report = run(program, url, model)
    print(json.dumps(report))  # noqa: T201


def run(program: str, url: str, model: str) -> dict[str, Any]:
    try:
        names = runpy.run_path(program)
    except ModuleNotFoundError as error:
        return {"missing": error.name}
    checks = {name: value for name, value in names.items() if is_check(value, program)}
    return {"checks": {name: trace_of(check, url, model) for name, check in checks.items()}}


def is_check(value: Any, program: str) -> bool:
    is_own = inspect.isfunction(value) and value.__code__.co_filename == program
    return is_own and not value.__name__.startswith("_")


def trace_of(check: Callable[[str, str], Any], url: str, model: str) -> str:
    try:
        result = check(url, model)
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
