"""A load's figures as a person reads them, on a terminal or in a pipeline's log. It prints; others measure."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from app.bench.facts import about, compared, facts_of, failures_of, warnings_of
from app.bench.quantities import LATENCIES, in_words, load_of, statistics_of, value_of
from app.bench.records import RunResult


def show_result(console: Console, result: RunResult) -> None:
    """One load in full: latencies, then a line for each of throughput, failures, server and client, then warnings."""
    console.print(f"[bold]{escape(load_of(result))}[/bold]: {escape(about(result))}", highlight=False)
    console.print(_latency_table(result))
    facts = Table.grid(padding=(0, 2))
    for name, text in facts_of(result):
        facts.add_row(Text(name, style="dim"), Text(text))
    for count, message in failures_of(result):
        facts.add_row(Text("failed", style="bold red"), Text(f"{count}: {message}".removesuffix(": ")))
    console.print(facts)
    show_warnings(console, [result])


def show_results(console: Console, results: Sequence[RunResult]) -> None:
    """Several loads, one in each row; one alone is shown in full."""
    if len(results) > 1:
        _show_table(console, results)
    elif results:
        show_result(console, results[0])
    else:
        console.print("nothing was measured")


def _show_table(console: Console, results: Sequence[RunResult]) -> None:
    quantities = compared(results)
    console.print(f"{about(results[0])}; times in ms", style="bold", markup=False, highlight=False)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("load", no_wrap=True)
    for quantity in quantities:
        heading = quantity.label if quantity.unit == "ms" else quantity.unit
        table.add_column(heading, justify="right")
    table.add_column("failed", justify="right")
    for result in results:
        cells = [in_words(value_of(result, quantity.key)) for quantity in quantities]
        table.add_row(load_of(result), *cells, _in_red_unless_none(value_of(result, "failed")))
    console.print(table)
    show_warnings(console, results)


def show_warnings(console: Console, results: Sequence[RunResult]) -> None:
    for result in results:
        where = f"{load_of(result)}: " if len(results) > 1 else ""
        for warning in warnings_of(result):
            text = f"[bold yellow]WARNING[/bold yellow]: {escape(where + warning)}"
            console.print(text, highlight=False, soft_wrap=True)


def _in_red_unless_none(failed: float | None) -> Text:
    return Text(in_words(failed), style="bold red" if failed else "")


def _latency_table(result: RunResult) -> Table:
    statistics = statistics_of(result)
    table = Table("milliseconds", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for statistic in statistics:
        table.add_column(statistic, justify="right")
    for latency in LATENCIES:
        values = [value_of(result, latency.statistic(statistic).key) for statistic in statistics]
        if any(value is not None for value in values):
            table.add_row(f"{latency.label} ({latency.short})", *(in_words(value) for value in values))
    return table
