"""What a command ends with."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from app.bench.ending import FAILED, conclude
from app.bench.outputs import Outputs, add_output_options
from app.bench.records import RunResult
from app.signals import INTERRUPTED


def result(**changes: Any) -> RunResult:
    return {"model_id": "fake", "date": "20260101-000000", "completed": 3, "failed": 0} | changes


def status(*results: RunResult, words: tuple[str, ...] = (), is_interrupted: bool = False) -> int:
    parser = ArgumentParser()
    add_output_options(parser)
    outputs = Outputs.read(parser.parse_args(words))
    return conclude(Console(), outputs, results, is_interrupted=is_interrupted)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0),
        ({"failed": 2}, 0),  # how many may fail is for an assertion to say
        ({"completed": 0}, FAILED),
        ({"verify": {"holds": True}}, 0),
        ({"verify": {"holds": False}}, FAILED),
    ],
)
def test_a_load_without_answers_or_with_differing_ones_fails(changes, expected):
    assert status(result(), result(**changes)) == expected


@pytest.mark.parametrize(("line", "expected"), [("failed==0", 0), ("failed>0", FAILED)])
def test_assertions_make_the_status(line, expected):
    assert status(result(), words=("--assert", line)) == expected


def test_what_there_is_is_saved_even_if_it_was_interrupted(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = tmp_path / "result.json"

    assert status(result(), words=("--result-filename", str(path)), is_interrupted=True) == INTERRUPTED
    assert path.exists()
    assert f"saved {path}" in capfd.readouterr().out


def test_interrupted_before_the_first_load_there_is_nothing_to_save(tmp_path: Path):
    path = tmp_path / "result.json"

    assert status(words=("--result-filename", str(path)), is_interrupted=True) == INTERRUPTED
    assert not path.exists()
