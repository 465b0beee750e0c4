"""`slotwise bench serve` as a user has it: from words to an exit status, against the real API with a fake model."""

import json
import os
import signal
import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.bench import serve as command
from model.batch import Batch
from tests.api.api_parts import build
from tests.fakes import FakeRunner
from tests.live_server import serve

LOAD = ("--input-len", "40", "--output-len", "8", "--num-prompts", "24", "--concurrency", "4", "--ignore-eos")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(build(FakeRunner(num_blocks=256, block_size=16))) as server:
        yield server.url


def run(url: str, *words: str) -> int:
    parser = ArgumentParser(prog="slotwise bench serve")
    command.add_arguments(parser)
    return command.run(parser.parse_args(["--base-url", url, *words]))


def saved(folder: Path) -> dict[str, object]:
    (path,) = folder.glob("*.json")
    return dict(json.loads(path.read_text()))


def test_a_load_is_run_told_and_saved(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests = tmp_path / "requests.jsonl"
    assert run(url, *LOAD, "--result-dir", str(tmp_path), "--requests", str(requests)) == 0
    result = saved(tmp_path)
    assert (result["completed"], result["failed"], result["total_output_tokens"]) == (24, 0, 24 * 8)
    assert result["total_input_tokens"] == 24 * 40
    assert result["server"]["kind"] == "slotwise"  # type: ignore[index]
    assert len(requests.read_text().splitlines()) == 24
    shown = capsys.readouterr()
    assert "Time to first token" in shown.out
    assert "saved" in shown.out
    assert "24 done" in shown.err


def test_several_loads_are_runs_of_one_file_and_ask_different_things(url: str, tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    words = [*LOAD, "--concurrency", "1,2", "--result-dir", str(tmp_path), "--requests", str(requests)]
    assert run(url, *words) == 0
    runs = saved(tmp_path)["runs"]
    assert [one["max_concurrency"] for one in runs] == [1, 2]  # type: ignore[attr-defined]
    assert [json.loads(line)["run"] for line in requests.read_text().splitlines()] == [0] * 24 + [1] * 24


def test_an_assertion_decides_the_exit_status_and_brings_its_percentile(url: str, tmp_path: Path) -> None:
    assert run(url, *LOAD, "--assert", "failed==0", "--assert", "p97_ttft<600s", "--result-dir", str(tmp_path)) == 0
    assert "p97_ttft_ms" in saved(tmp_path)
    assert run(url, *LOAD, "--assert", "completed<24") == 1


def test_answers_are_verified(url: str, tmp_path: Path) -> None:
    assert run(url, *LOAD, "--verify", "--result-dir", str(tmp_path)) == 0
    verdict = saved(tmp_path)["verify"]
    assert verdict["holds"] is True  # type: ignore[index]
    assert verdict["greedy"] + verdict["seeded"] == 24  # type: ignore[index]


def test_a_load_of_which_nothing_is_answered_fails(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"prompt": "a", "max_tokens": 1000000}\n')
    assert run(url, "--dataset-path", str(path), "--num-prompts", "3", "--model", "fake") == 1
    assert "refused" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--endpoint", "embeddings"], "neither completions nor chat"),
        (["--model", "other"], "no such model"),
        (["--assert", "speed>3"], "speed"),
        (["--csv", "none/such/file.csv"], "no such folder"),
        (["--base-url", "ftp://host"], "not the URL of a server"),
        (["--base-url", "http://127.0.0.1:9"], "cannot be reached"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    url: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(url, *LOAD, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("slotwise bench serve: error: ")
    assert error.count("\n") == 1
    assert message in error


def test_interrupted_it_tells_what_it_has(tmp_path: Path) -> None:
    """The model stands still from the hundredth step on; then comes Ctrl-C."""
    may_go = threading.Event()

    def before_step(batch: Batch) -> None:
        if len(runner.batches) == 100:
            os.kill(os.getpid(), signal.SIGINT)
            may_go.wait(10)

    runner = FakeRunner(num_blocks=256, block_size=16, before_step=before_step)
    with serve(build(runner)) as server:
        words = [*LOAD, "--num-prompts", "1000", "--result-dir", str(tmp_path)]
        assert run(server.url, *words) == 130
        may_go.set()
    result = saved(tmp_path)
    assert result["completed"] > 5  # type: ignore[operator]
    assert result["interrupted"] == 4
    assert result["failed"] == 0
