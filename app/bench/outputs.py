"""Where a load test's results go besides the terminal, as the command line says. That the places are there is checked
before the load: nobody waits an hour for a result that then cannot be written.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from app.bench.assertions import Assertion, parse_assertion
from app.bench.errors import BadWorkload
from app.bench.files import write_csv, write_json
from app.bench.records import RunResult, RunSettings
from app.bench.report import require_plotly, write_report


def add_output_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("Output")
    group.add_argument("--save-result", action="store_true", help="Write the figures as JSON.")
    group.add_argument("--result-dir", metavar="FOLDER", type=Path, help="Of the JSON file. [default: this folder]")
    group.add_argument(
        "--result-filename",
        metavar="NAME",
        type=Path,
        help="Of the JSON file; implies --save-result. [default: MODEL-DATE.json]",
    )
    group.add_argument("--requests", metavar="FILE", type=Path, help="Write a line of JSON for each request.")
    group.add_argument("--csv", metavar="FILE", type=Path, help="Write the figures as a table.")
    group.add_argument("--report", metavar="FILE", type=Path, help="Write an HTML report.")
    group.add_argument(
        "--assert",
        dest="assertions",
        metavar="LINE",
        action="append",
        default=[],
        help="Exit status 1 unless this holds of each load, such as 'p99_ttft<800ms' or 'failed==0'; again for more.",
    )


@dataclass(frozen=True, slots=True)
class Outputs:
    is_saved: bool
    folder: Path
    filename: Path | None
    requests: Path | None
    csv: Path | None
    report: Path | None
    assertions: tuple[Assertion, ...]

    @classmethod
    def read(cls, options: Namespace) -> Self:
        """Raises ValueError: BadWorkload, BadAssertion or NoPlotly."""
        outputs = cls(
            is_saved=options.save_result or options.result_filename is not None or options.result_dir is not None,
            folder=options.result_dir or Path(),
            filename=options.result_filename,
            requests=options.requests,
            csv=options.csv,
            report=options.report,
            assertions=tuple(parse_assertion(line) for line in options.assertions),
        )
        outputs._check()
        return outputs

    def with_percentiles(self, load: RunSettings) -> RunSettings:
        """With those that the assertions need."""
        wanted = {assertion.percentile for assertion in self.assertions if assertion.percentile is not None}
        return replace(load, percentiles=tuple(sorted(wanted.union(load.percentiles))))

    def _check(self) -> None:
        if self.report is not None:
            require_plotly()
        for path in (self.folder / (self.filename or "result"), self.requests, self.csv, self.report):
            if path is not None and not path.parent.is_dir():
                raise BadWorkload(f"{path.parent}: there is no such folder to write {path.name} in")

    def write(self, results: Sequence[RunResult]) -> list[Path]:
        """What was written. Raises OSError."""
        written = []
        if self.is_saved:
            written.append(self.folder / (self.filename or _filename(results[0])))
            write_json(written[-1], results)
        if self.csv is not None:
            written.append(self.csv)
            write_csv(self.csv, results)
        if self.report is not None:
            written.append(self.report)
            write_report(self.report, results)
        return written


def _filename(result: RunResult) -> str:
    model = str(result["model_id"]).strip("/").replace("/", "-")
    return f"{model}-{result['date']}.json"
