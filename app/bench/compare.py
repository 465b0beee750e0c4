"""`slotwise bench compare A.json B.json`: what became of each figure, as a ratio, and which way that is. It reads files
that `bench serve`, `bench sweep` or `vllm bench serve` saved; it measures nothing.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from app.bench.assertions import BadAssertion, Outcome, check, parse_assertion, ratio
from app.bench.files import NotAResult, read_results
from app.bench.quantities import COUNTS, LATENCIES, NOTHING, RATES, Quantity, in_words, load_of, statistics_of, value_of
from app.bench.records import RunResult

USER_ERROR, ASSERTION_FAILED = 2, 1
# What should be the same in both for their figures to be comparable.
SETTINGS = ("model_id", "endpoint", "backend", "num_prompts", "burstiness", "total_input_tokens", "total_output_tokens")
LEAST_RATIO_SHOWN_AS_CHANGE = 0.01


@dataclass(frozen=True, slots=True)
class Row:
    quantity: Quantity
    before: float | None
    after: float | None

    @property
    def ratio(self) -> float | None:
        return ratio(self.after, self.before)

    @property
    def verdict(self) -> str:
        """better, worse, or nothing where neither is better or the change is under a hundredth."""
        change = 0.0 if self.ratio is None else self.ratio - 1.0
        if self.quantity.is_better_high is None or abs(change) < LEAST_RATIO_SHOWN_AS_CHANGE:
            return ""
        return "better" if (change > 0) is self.quantity.is_better_high else "worse"


@dataclass(frozen=True, slots=True)
class Pair:
    """The same load in both files."""

    before: RunResult
    after: RunResult

    @property
    def load(self) -> str:
        loads = dict.fromkeys((load_of(self.before), load_of(self.after)))
        return " → ".join(loads)

    @property
    def rows(self) -> list[Row]:
        statistics = dict.fromkeys([*statistics_of(self.before), *statistics_of(self.after)])
        times = [latency.statistic(name) for latency in LATENCIES for name in statistics]
        rows = [
            Row(quantity, value_of(self.before, quantity.key), value_of(self.after, quantity.key))
            for quantity in (*RATES, *COUNTS, *times)
        ]
        return [row for row in rows if row.before is not None or row.after is not None]

    @property
    def differences(self) -> Iterator[str]:
        """Settings that make the figures incomparable, in words."""
        for key in SETTINGS:
            before, after = self.before.get(key), self.after.get(key)
            if before is not None and after is not None and before != after:
                yield f"{key} is {before} in one and {after} in the other"


def pairs_of(before: Sequence[RunResult], after: Sequence[RunResult]) -> list[Pair]:
    """Loads that are the same in both; where each has but one, those two, whatever they are. Raises NotAResult where
    nothing is the same."""
    if len(before) == len(after) == 1:
        return [Pair(before[0], after[0])]
    by_load = {load_of(result): result for result in before}
    pairs = [Pair(by_load[load_of(result)], result) for result in after if load_of(result) in by_load]
    if not pairs:
        raise NotAResult("the two files have no load in common")
    return pairs


def show_pair(console: Console, pair: Pair) -> None:
    console.print(pair.load, style="bold", markup=False, highlight=False)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("", "A", "B", "B / A"):
        table.add_column(name, justify="right" if name else "left")
    table.add_column("")
    for row in pair.rows:
        label = f"{row.quantity.label}, {row.quantity.unit}" if row.quantity.unit else row.quantity.label
        style = {"better": "green", "worse": "red"}.get(row.verdict, "")
        quotient = NOTHING if row.ratio is None else f"{row.ratio:.3f}"
        cells = (in_words(row.before), in_words(row.after), quotient)
        table.add_row(label, *cells, Text(row.verdict, style=style))
    console.print(table)
    for difference in pair.differences:
        console.print(f"[bold yellow]WARNING[/bold yellow]: {escape(difference)}", highlight=False, soft_wrap=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", metavar="A.json", type=Path, help="the baseline")
    parser.add_argument("after", metavar="B.json", type=Path, help="what is compared with it")
    parser.add_argument(
        "--assert",
        dest="assertions",
        metavar="LINE",
        action="append",
        default=[],
        help="fail unless this holds of B: 'p99_ttft<800ms', or of B / A: 'output_throughput>=0.95x'; again for more",
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0; 1 an assertion failed; 2 something for the user to mend, which is said on stderr."""
    try:
        assertions = [parse_assertion(text, has_baseline=True) for text in arguments.assertions]
        pairs = pairs_of(read_results(arguments.before), read_results(arguments.after))
    except (BadAssertion, NotAResult, OSError) as error:
        sys.stderr.write(f"slotwise bench compare: error: {error}\n")
        return USER_ERROR
    console = Console()
    named = f"A is {arguments.before}, B is {arguments.after}"
    console.print(named, markup=False, highlight=False, soft_wrap=True)
    for pair in pairs:
        show_pair(console, pair)
    outcomes = [check(assertion, pair.after, pair.before) for pair in pairs for assertion in assertions]
    return show_outcomes(console, outcomes)


def show_outcomes(console: Console, outcomes: Sequence[Outcome]) -> int:
    """Prints a line for each and returns the exit status that they make."""
    for outcome in outcomes:
        style = "green" if outcome.holds else "bold red"
        console.print(str(outcome), style=style, markup=False, highlight=False, soft_wrap=True)
    return 0 if all(outcome.holds for outcome in outcomes) else ASSERTION_FAILED
