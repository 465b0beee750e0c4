"""Where results go."""

import json
from argparse import ArgumentParser
from pathlib import Path

import pytest

from app.bench.assertions import BadAssertion
from app.bench.errors import BadWorkload
from app.bench.outputs import Outputs, add_output_options
from app.bench.records import RunResult, RunSettings

RESULT: RunResult = {"model_id": "/models/a/b", "date": "20260102-030405", "request_throughput": 1.5}


def outputs(*words: str) -> Outputs:
    parser = ArgumentParser()
    add_output_options(parser)
    return Outputs.read(parser.parse_args(words))


def test_nothing_is_written_unasked() -> None:
    assert outputs().write([RESULT]) == []


def test_a_result_is_named_for_its_model_and_date(tmp_path: Path) -> None:
    (path,) = outputs("--save-result", "--result-dir", str(tmp_path)).write([RESULT])
    assert path == tmp_path / "models-a-b-20260102-030405.json"
    assert json.loads(path.read_text())["request_throughput"] == 1.5


def test_a_name_is_enough_to_save_and_several_loads_are_runs(tmp_path: Path) -> None:
    written = outputs("--result-filename", str(tmp_path / "r.json"), "--csv", str(tmp_path / "r.csv")).write(
        [RESULT] * 2
    )
    assert written == [tmp_path / "r.json", tmp_path / "r.csv"]
    assert len(json.loads(written[0].read_text())["runs"]) == 2
    assert written[1].read_text().count("20260102") == 2


@pytest.mark.parametrize("option", ["--result-dir", "--csv", "--requests", "--result-filename"])
def test_a_folder_that_is_not_there_is_found_before_the_load(option: str, tmp_path: Path) -> None:
    with pytest.raises(BadWorkload, match="no such folder"):
        outputs(option, str(tmp_path / "none" / "file"))


def test_an_assertion_that_is_none_is_found_before_the_load_and_others_bring_their_percentile() -> None:
    with pytest.raises(BadAssertion):
        outputs("--assert", "speed>3")
    settings = RunSettings("http://localhost", "m", percentiles=(50.0, 99.0))
    asserting = outputs("--assert", "p97_ttft<80ms", "--assert", "failed==0")
    assert asserting.with_percentiles(settings).percentiles == (50.0, 97.0, 99.0)
