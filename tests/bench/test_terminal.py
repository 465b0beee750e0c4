"""What is printed, read as a person reads it: without colours, on a page of 100 columns."""

import io

import pytest
from rich.console import Console

from app.bench.terminal import show_result, show_results
from tests.bench.hand_written import load

LONG = "this client used 90% of a core, and a log that is searched for lines must have this in a single one" + "." * 20


def printed(show, *arguments, width=100):
    file = io.StringIO()
    show(Console(file=file, width=width), *arguments)
    return file.getvalue()


def row(text, name):
    """The cells of the one row that begins with the name."""
    (found,) = [line for line in text.splitlines() if line.startswith(name) and ":" not in line]
    return found.removeprefix(name).split()


def test_one_load_is_shown_in_full():
    text = printed(show_result, load())

    assert text.startswith("16 at once: minimind, http://127.0.0.1:8000")
    assert row(text, "milliseconds") == ["mean", "p50", "p90", "p95", "p99", "max"]
    assert row(text, "Time to first token (TTFT)") == ["125", "100", "200", "250", "300", "400"]
    assert "196 completed, 3 failed, 1 cancelled" in text
    assert "2 timeout: no end after 600 s" in text
    assert "1 no usage" in [line.removeprefix("failed").strip() for line in text.splitlines()]
    assert "WARNING" not in text


def test_a_latency_that_the_load_does_not_have_is_no_row():
    unstreamed = load(**{key: None for key in load() if key.endswith(("_ttft_ms", "_tpot_ms", "_itl_ms"))})
    text = printed(show_result, unstreamed)

    assert "Time to first token" not in text
    assert "End-to-end latency" in text


def test_several_loads_are_rows_of_one_table():
    text = printed(show_results, [load(max_concurrency=1, failed=0), load(output_throughput=3072.5)])

    assert row(text, "1 at once") == ["15.68", "1,536", "100", "300", "20", "60", "0"]
    assert row(text, "16 at once") == ["15.68", "3,072", "100", "300", "20", "60", "3"]


def test_a_single_load_is_shown_in_full_and_none_is_said():
    assert printed(show_results, [load()]) == printed(show_result, load())
    assert printed(show_results, []) == "nothing was measured\n"


@pytest.mark.parametrize("loads", [1, 3])
def test_what_taints_the_figures_is_said_last(loads):
    results = [load(max_concurrency=number + 1) for number in range(loads)]
    results[-1]["client"]["warnings"] = [LONG]
    where = "3 at once: " if loads > 1 else ""

    last_line = printed(show_results, results).rstrip().splitlines()[-1]
    assert last_line == f"WARNING: {where}{LONG}"


def test_what_looks_like_markup_is_printed_as_it_is():
    hostile = load(model_id="[red]m[/red]", failures={"refused": 1}, failure_messages={"refused": "[/] [bold]no"})
    hostile["warnings"] = ["[blink]gave up[/blink]"]
    text = printed(show_result, hostile)

    assert "[red]m[/red]" in text
    assert "[/] [bold]no" in text
    assert "[blink]gave up[/blink]" in text


def test_a_pipe_gets_no_colours_and_a_narrow_page_loses_nothing():
    wide = load(request_rate=16.25, max_concurrency=128, output_throughput=12345.6, p99_ttft_ms=98765.4)
    text = printed(show_results, [load(max_concurrency=1), wide], width=80)

    assert "\x1b" not in text
    assert row(text, "16.25 req/s, 128 at once") == ["15.68", "12,346", "100", "98,765", "20", "60", "3"]
    assert max(map(len, text.splitlines())) <= 80


def test_nothing_at_all_completed_is_shown_without_a_traceback():
    text = printed(show_result, load(**{key: None for key in load() if key.endswith("_ms")}, completed=0))

    assert "0 completed" in text
