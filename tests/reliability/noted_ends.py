"""Notes on the server's side when each request left the engine and its slot was free, out of which phase and why, and
when each step began and ended, by the clock that all processes of a machine share. Nobody has to poll, which would be
in the way of what is measured.

python -m tests.reliability.noted_ends FILE serve …   is the `slotwise` command that writes such notes into FILE
"""

import sys
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from app.cli import main
from app.engine.engine import Engine
from app.engine.request import Emission, Request, TokenEvent
from app.engine.scheduler import Scheduler
from model.batch import Batch

Finish = Callable[[Scheduler, Request, TokenEvent], Emission]
Run = Callable[[Engine, Batch], list[Emission]]


@dataclass(frozen=True)
class End:
    request_id: str
    phase: str  # queue, set_back, prefill or decode
    reason: str
    at: float  # time.monotonic()


@dataclass(frozen=True)
class Step:
    started: float
    ended: float


Note = End | Step


def noting_steps(run: Run, note: Callable[[Note], object]) -> Run:
    """Engine._run: a step from where its batch is known to where its results are, without those that only free."""

    def run_and_note(engine: Engine, batch: Batch) -> list[Emission]:
        started = time.monotonic()
        emissions = run(engine, batch)
        if batch.chunks:
            note(Step(started, time.monotonic()))
        return emissions

    return run_and_note


def noting_ends(finish: Finish, note: Callable[[Note], object]) -> Finish:
    """Scheduler._finish, the one place where a request leaves, with a note of each."""

    def finish_and_note(scheduler: Scheduler, request: Request, event: TokenEvent) -> Emission:
        phase = _phase(request)
        emission = finish(scheduler, request, event)
        assert request.slot is None
        note(End(request.request_id, phase, str(event.finish_reason), time.monotonic()))
        return emission

    return finish_and_note


def read_notes(path: Path) -> list[Note]:
    return [_note(*line.split()) for line in path.read_text().splitlines()]


def _note(*fields: str) -> Note:
    if len(fields) == 2:
        return Step(*map(float, fields))
    request_id, phase, reason, at = fields
    return End(request_id, phase, reason, float(at))


def _phase(request: Request) -> str:
    if request.slot is None:
        return "queue" if request.admission_time is None else "set_back"
    return "decode" if request.is_decoding else "prefill"


def _write(file: TextIO, note: Note) -> None:
    file.write(" ".join(map(str, astuple(note))) + "\n")


if __name__ == "__main__":
    with Path(sys.argv[1]).open("w") as file:
        write = partial(_write, file)
        setattr(Scheduler, "_finish", noting_ends(Scheduler._finish, write))  # noqa: B010  # mypy knows no such change
        setattr(Engine, "_run", noting_steps(Engine._run, write))  # noqa: B010
        status = main(sys.argv[2:])
    sys.exit(status)
