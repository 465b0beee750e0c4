"""How far a load is, while it runs: one live line with a bar on a terminal, now and then a plain line elsewhere. It
draws only when it is told something, four times a second at most: the event loop it shares is the clock of the load.
"""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from app.bench.quantities import in_words
from app.bench.records import Progress

SECONDS_BETWEEN_DRAWINGS = 0.25
SECONDS_BETWEEN_LINES = 10.0


class ProgressLine:
    """`with ProgressLine(console, title) as line: ... line.update(progress)`. The console should be that of stderr."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._next = 0.0  # of the run's seconds
        columns = (TextColumn("{task.fields[title]}"), BarColumn(bar_width=20), TextColumn("{task.description}"))
        self._bar = Bar(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=None, title=title)

    def update(self, progress: Progress) -> None:
        if progress.elapsed < self._next:
            return
        if self._console.is_terminal:
            self._next = progress.elapsed + SECONDS_BETWEEN_DRAWINGS
            done, total = progress.share_done, None if progress.share_done is None else 1.0
            self._bar.update(self._task, description=words_of(progress), completed=done, total=total)
            self._bar.refresh()
        else:
            self._next = progress.elapsed + SECONDS_BETWEEN_LINES
            self._console.print(f"{self._title}: {words_of(progress)}", markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def words_of(progress: Progress) -> str:
    share = "" if progress.share_done is None else f"{progress.share_done:.0%}, ".replace("%", " %")
    failed = f", {progress.failed:,} failed" if progress.failed else ""
    return (
        f"{share}{progress.elapsed:.0f} s: {progress.completed:,} done, {progress.in_flight:,} in flight{failed}, "
        f"{in_words(progress.pieces_per_s)} tok/s"
    )
