"""The fuzzer of model files, for a few seconds, and what it counts as a finding. `python -m
tests.reliability.fuzz_files` runs it for as long as one likes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.fuzz_files import FORMATS, GOOD, Worker, fuzz

CASES = 60
MISBEHAVING = """
import json, os, sys, time
print("ready", flush=True)
for line in sys.stdin:
    match json.loads(line)["backend"]:
        case "crashes":
            os.abort()
        case "hangs":
            time.sleep(1000)
        case _:
            print(json.dumps({"kind": "loaded", "detail": ""}), flush=True)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch) -> Iterator[Worker]:
    monkeypatch.setattr("tests.reliability.fuzz_files.MOST_SECONDS", 1.0)
    started = Worker(tmp_path, ["-c", MISBEHAVING])
    yield started
    started.close()


@pytest.mark.filterwarnings("ignore")  # of damaged seeds, which are damaged further
def test_damaged_files_are_refused_or_answer():
    tally = fuzz(20260821, FORMATS, lambda tally: tally.num_cases < CASES, None)

    assert tally.num_cases == CASES
    assert {kind for _, kind in tally.counts} == {*GOOD}, tally.findings
    assert {format for format, kind in tally.counts if kind == "refused"} == {*FORMATS}


def test_a_crash_and_time_without_end_are_seen_and_the_next_case_runs(worker):
    kinds = [worker.run(Path("x"), behaviour).kind for behaviour in ("crashes", "fine", "hangs", "fine")]

    assert kinds == ["died with status -6", "loaded", "timeout", "loaded"]


def test_what_a_case_does_beyond_loading_is_seen(tmp_path):
    """The worker itself, with a `load` that does what no file may make it do."""
    program = (
        "import sys, os, tests.reliability.load_worker as w\n"
        "def load(options):\n"
        "    match os.path.basename(options.model):\n"
        "        case 'runs': os.system('true')\n"
        "        case 'writes': open('canary', 'w').close()\n"
        "        case 'eats': bytearray(b'x') * (400 << 20)\n"
        "        case 'takes': bytearray(2 << 30)\n"
        "        case 'raises': raise KeyError('x')\n"
        "        case 'babbles': raise w.ModelError(options.model, 'x').with_traceback(None)\n"
        "        case 'lies': raise w.ModelError('/elsewhere/x', 'x')\n"
        "    sys.exit(3)\n"
        "w.load = load\n"
        "answers = os.fdopen(os.dup(1), 'w'); os.dup2(2, 1); w.main(answers)\n"
    )
    worker = Worker(tmp_path, ["-c", program])
    try:
        words = ("runs", "writes", "eats", "takes", "raises", "babbles", "lies")
        kinds = {name: worker.run(tmp_path / name, "native").kind for name in words}
    finally:
        worker.close()

    assert kinds.pop("raises").startswith("raised KeyError")
    assert kinds.pop("takes").startswith("raised MemoryError")
    expected = {"runs": "executed", "writes": "executed", "eats": "memory", "babbles": "refused"}
    assert kinds == expected | {"lies": "message names no file"}
