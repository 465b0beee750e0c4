"""One load of a command, with what goes along with it: its requests, live progress, a line for each request, the proof
that answers do not depend on their company.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from rich.console import Console

from app.bench.files import RequestLines
from app.bench.interrupts import stopped_by_interrupt
from app.bench.metrics import about
from app.bench.outputs import Outputs
from app.bench.progress import ProgressLine
from app.bench.prompts import AskSource
from app.bench.quantities import load_of
from app.bench.records import Progress, Record, RunResult, RunSettings
from app.bench.run import ignore, run_load
from app.bench.verify import Witness, replay


@contextmanager
def measuring(
    source: AskSource, outputs: Outputs, *, is_verified: bool = False
) -> Iterator[tuple["Measurement", asyncio.Event]]:
    """What measures the loads of a command, and the event that Ctrl-C sets meanwhile. Raises OSError."""
    with ExitStack() as stack:
        lines = stack.enter_context(RequestLines(outputs.requests)) if outputs.requests else None
        stop = stack.enter_context(stopped_by_interrupt())
        yield Measurement(source, lines, is_verified), stop


@dataclass(frozen=True, slots=True)
class Measurement:
    """Called once for each load of a command, `load` counting them: each has prompts of its own."""

    source: AskSource
    lines: RequestLines | None = None
    is_verified: bool = False  # some requests are asked again: `verify` in the result
    console: Console = field(default_factory=lambda: Console(stderr=True))

    async def __call__(
        self,
        settings: RunSettings,
        load: int,
        *,
        on_record: Callable[[Record], None] = ignore,
        on_progress: Callable[[Progress], None] = ignore,
        stop: asyncio.Event,
    ) -> RunResult:
        witness = Witness(settings) if self.is_verified else None

        def take(record: Record) -> None:
            on_record(record)
            if self.lines is not None:
                self.lines.write(record, load)
            if witness is not None:
                witness.take(record)

        def show(progress: Progress) -> None:
            on_progress(progress)
            line.update(progress)

        asks = self.source.resized(settings.input_len, settings.output_len).asks(load)
        with ProgressLine(self.console, load_of(about(settings))) as line:
            result = await run_load(settings, witness.mark(asks) if witness else asks, take, show, stop)
        return result if witness is None or stop.is_set() else result | await self._verdict(settings, witness, stop)

    async def _verdict(self, settings: RunSettings, witness: Witness, stop: asyncio.Event) -> RunResult:
        verdict = await replay(settings, witness.kept, stop)
        for line in verdict.lines():
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        return {"verify": verdict.as_json()}
