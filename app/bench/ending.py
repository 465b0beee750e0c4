"""The end of a command that measured loads: what was asserted, what is written, the exit status."""

import signal
from collections.abc import Sequence

from rich.console import Console

from app.bench.assertions import check_all
from app.bench.compare import show_outcomes
from app.bench.outputs import Outputs
from app.bench.records import RunResult

FAILED = 1
INTERRUPTED = 128 + signal.SIGINT  # as a shell reports it


def conclude(console: Console, outputs: Outputs, results: Sequence[RunResult], *, is_interrupted: bool) -> int:
    """1: an assertion failed, answers differ, or a load had no answer. Raises OSError for a file it cannot write."""
    is_good = all(result["completed"] and result.get("verify", {"holds": True})["holds"] for result in results)
    is_good &= show_outcomes(console, check_all(outputs.assertions, results)) == 0
    for path in outputs.write(results) if results else ():
        console.print(f"saved {path}", markup=False, highlight=False, soft_wrap=True)
    return INTERRUPTED if is_interrupted else 0 if is_good else FAILED
