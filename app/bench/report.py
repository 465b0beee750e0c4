"""`slotwise bench report`, and what `--report` does: one HTML file that tells a whole load test and opens without a
network. plotly.js is copied into it from the installed plotly package, which is an extra.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from app.bench.files import NotAResult, read_results
from app.bench.page import page
from app.bench.records import RunResult

USER_ERROR = 2


class NoPlotly(ValueError):
    """The library that draws the charts is not installed."""


def require_plotly() -> None:
    """To be called before a load is run whose report is asked for. Raises NoPlotly."""
    if importlib.util.find_spec("plotly") is None:
        raise NoPlotly("an HTML report needs plotly: pip install 'slotwise[bench-report]'")


def write_report(path: Path, results: Sequence[RunResult]) -> None:
    """Raises NoPlotly, or OSError."""
    require_plotly()
    script = (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    with path.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in page(results, script))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", metavar="RESULT.json", type=Path, nargs="+", help="what `bench serve` saved")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, default=Path("report.html"), help="[report.html]")


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0; 2 something for the user to mend, which is said on stderr."""
    try:
        results = [result for path in arguments.results for result in read_results(path)]
        write_report(arguments.output, results)
    except (NotAResult, NoPlotly, OSError) as error:
        sys.stderr.write(f"slotwise bench report: error: {error}\n")
        return USER_ERROR
    sys.stdout.write(f"{arguments.output}\n")
    return 0
