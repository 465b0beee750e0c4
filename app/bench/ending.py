"""The end of a command that measured loads: what was asserted, what is written, the exit status."""

import signal
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from app.bench.assertions import BadAssertion, check_all
from app.bench.compare import show_outcomes
from app.bench.errors import BadWorkload, Unusable
from app.bench.outputs import Outputs
from app.bench.records import RunResult
from app.bench.report import NoPlotly

FAILED, USER_ERROR = 1, 2
INTERRUPTED = 128 + signal.SIGINT  # as a shell reports it


def conclude(console: Console, outputs: Outputs, results: Sequence[RunResult], *, is_interrupted: bool) -> int:
    """1: an assertion failed, answers differ, or a load had no answer. Raises OSError for a file it cannot write."""
    is_good = all(result["completed"] and result.get("verify", {"holds": True})["holds"] for result in results)
    is_good &= show_outcomes(console, check_all(outputs.assertions, results)) == 0
    for path in outputs.write(results) if results else ():
        console.print(f"saved {path}", markup=False, highlight=False, soft_wrap=True)
    return INTERRUPTED if is_interrupted else 0 if is_good else FAILED


def mendable(command: str, run: Callable[[], int]) -> int:
    """The status of `run`; 2 for what the user can mend, which is said on stderr."""
    try:
        return run()
    except (BadWorkload, BadAssertion, NoPlotly, Unusable, OSError) as error:
        sys.stderr.write(f"slotwise bench {command}: error: {error}\n")
        return USER_ERROR
