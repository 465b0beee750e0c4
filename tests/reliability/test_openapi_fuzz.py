"""Requests made from the server's own OpenAPI description, right and wrong, NUL included: whatever they are, the server
has an answer that is not its own failure. `pytest -m fuzz tests/reliability` makes a thousand for each operation."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.catalogue import KEY, Target, nobody_is_harmed, target

COMMAND = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"


def run(attacked: Target, folder: Path, num_examples: int, *phases: str) -> None:
    told = ("--mode", "all", "--generation-allow-x00", "true", "--checks", "not_a_server_error", "--no-color")
    sized = ("--max-examples", str(num_examples), "--generation-database", "none", "--seed", "6")
    ended = subprocess.run(
        [
            *(sys.executable, "-c", COMMAND, "run", f"{attacked.server.url}/openapi.json"),
            *("-H", f"Authorization: Bearer {KEY}", "--phases", ",".join(phases), *told, *sized),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    print(ended.stdout[-3000:])  # noqa: T201 - pytest shows it where the test fails, or with -s
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]


def test_no_request_makes_the_server_fail(caplog, tmp_path):
    with target() as attacked, nobody_is_harmed(attacked, caplog):
        run(attacked, tmp_path, 15, "fuzzing")


@pytest.mark.fuzz
@pytest.mark.timeout(7200)
def test_no_request_of_a_thousand_makes_the_server_fail(caplog, tmp_path):
    with target() as attacked, nobody_is_harmed(attacked, caplog):
        run(attacked, tmp_path, 1000, "examples", "coverage", "fuzzing")
