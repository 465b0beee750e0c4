"""Two files side by side: ratios, which way they are, what makes them incomparable, and an exit status."""

import argparse
import io

import pytest
from rich.console import Console

from app.bench.compare import Pair, add_arguments, pairs_of, run, show_pair
from app.bench.files import NotAResult, write_json
from tests.bench.hand_written import load


def rows(before, after):
    return {row.quantity.key: row for row in Pair(before, after).rows}


def compare(tmp_path, before, after, *options):
    write_json(tmp_path / "a.json", before)
    write_json(tmp_path / "b.json", after)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(tmp_path / "a.json"), str(tmp_path / "b.json"), *options]))


@pytest.mark.parametrize(
    ("changes", "key", "ratio", "verdict"),
    [
        ({"output_throughput": 3072.0}, "output_throughput", 2.0, "better"),
        ({"output_throughput": 768.0}, "output_throughput", 0.5, "worse"),
        ({"p99_ttft_ms": 600.0}, "p99_ttft_ms", 2.0, "worse"),
        ({"p99_ttft_ms": 150.0}, "p99_ttft_ms", 0.5, "better"),
        ({"p99_ttft_ms": 301.0}, "p99_ttft_ms", 301 / 300, ""),
        ({"total_input_tokens": 12800}, "total_input_tokens", 2.0, ""),
        ({"p99_ttft_ms": None}, "p99_ttft_ms", None, ""),
    ],
)
def test_a_ratio_and_which_way_it_is(changes, key, ratio, verdict):
    row = rows(load(), load(**changes))[key]

    assert row.ratio == (pytest.approx(ratio) if ratio is not None else None)
    assert row.verdict == verdict


def test_what_neither_has_is_no_row():
    none = load(request_goodput=None)

    assert "request_goodput" not in rows(none, none)
    assert "request_goodput" in rows(none, load())


def test_loads_are_matched_by_what_was_asked_for():
    before = [load(max_concurrency=1), load(max_concurrency=4), load(max_concurrency=16)]
    after = [load(max_concurrency=16, duration=1.0), load(max_concurrency=1, duration=2.0), load(max_concurrency=99)]

    assert [(p.before["max_concurrency"], p.after["duration"]) for p in pairs_of(before, after)] == [
        (16, 1.0),
        (1, 2.0),
    ]


def test_two_single_loads_are_compared_whatever_they_are():
    (pair,) = pairs_of([load(max_concurrency=1)], [load(max_concurrency=4)])

    assert pair.load == "1 at once → 4 at once"


def test_nothing_in_common_is_an_error():
    with pytest.raises(NotAResult, match="no load in common"):
        pairs_of([load(max_concurrency=1), load(max_concurrency=2)], [load(max_concurrency=4)])


def test_settings_that_differ_are_warned_of():
    pair = Pair(load(), load(model_id="other", num_prompts=10))

    assert list(pair.differences) == [
        "model_id is minimind in one and other in the other",
        "num_prompts is 200 in one and 10 in the other",
    ]


def test_the_table_has_both_values_and_their_ratio():
    file = io.StringIO()
    show_pair(Console(file=file, width=100), Pair(load(), load(output_throughput=3072.0, model_id="[b]x")))

    (line,) = [line for line in file.getvalue().splitlines() if "Output throughput, tok/s" in line]
    assert line.split() == ["Output", "throughput,", "tok/s", "1,536", "3,072", "2.000", "better"]
    assert "WARNING: model_id is minimind in one and [b]x in the other" in file.getvalue()


def test_a_file_of_vllm_is_compared_too(tmp_path, capsys):
    theirs = {"request_throughput": 8.0, "output_throughput": 768.0, "max_concurrency": 16, "request_rate": "inf"}
    theirs |= {"mean_ttft_ms": 55.0, "median_ttft_ms": 50.0, "p99_ttft_ms": 600.0}

    assert compare(tmp_path, [theirs], [load()]) == 0
    printed = capsys.readouterr().out
    assert "2.000" in printed
    assert "0.500" in printed


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("output_throughput>=0.95x", 0),
        ("output_throughput>=1x", 1),
        ("p99_ttft<800ms", 0),
        ("p99_ttft<100ms", 1),
    ],
)
def test_assertions_make_the_exit_status(tmp_path, capsys, line, status):
    assert compare(tmp_path, [load()], [load(output_throughput=0.96 * 1536)], "--assert", line) == status
    assert ("FAILS: " + line in capsys.readouterr().out) is bool(status)


def test_what_the_user_can_mend_is_one_line_and_status_2(tmp_path, capsys):
    assert compare(tmp_path, [load()], [load()], "--assert", "p99_tftt<1x") == 2
    assert compare(tmp_path, [{"request_throughput": 1.0}] * 2, [load(max_concurrency=3)]) == 2

    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all(line.startswith("slotwise bench compare: error: ") for line in errors)


def test_a_file_that_is_not_there_is_said(tmp_path, capsys):
    arguments = argparse.Namespace(before=tmp_path / "a.json", after=tmp_path / "b.json", assertions=[])

    assert run(arguments) == 2
    assert "a.json" in capsys.readouterr().err
