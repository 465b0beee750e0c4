""".ci/run fails whenever one of its steps does, and shows pytest's summary last. Its tools are stand-ins here."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMAND = "pip install -e '.[dev]' && pytest"
TOOLS = ("pip", "pytest", "ruff", "mypy")
SUMMARY = "3 passed in 0.01s"


def write_tool(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def ci_run(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs it in a tree of its own. Each tool logs how it was called, and `failing` ones fail."""

    def run(readme: str = f"```sh\n{COMMAND}\n```\n", failing: str = "") -> subprocess.CompletedProcess[str]:
        tree, tools = tmp_path / "tree", tmp_path / "tools"
        (tree / ".ci").mkdir(parents=True)
        shutil.copy(ROOT / ".ci" / "run", tree / ".ci")
        (tree / "README.md").write_text(readme)
        for tool in TOOLS:
            script = f'echo "{tool} $*" >> {tmp_path}/calls; [ "{failing}" != "{tool} $1" ]'
            write_tool(tools / tool, f"{script} || exit 1; echo {SUMMARY}" if tool == "pytest" else script)
        write_tool(tmp_path / "bin" / "python3", f'mkdir -p "$3"; cp -r {tools} "$3/bin"')  # python3 -m venv FOLDER
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        (tmp_path / "scratch").mkdir()
        return subprocess.run(
            ["bash", tree / ".ci" / "run"],
            env={**os.environ, "PATH": path, "TMPDIR": str(tmp_path / "scratch")},
            capture_output=True,
            text=True,
        )

    return run


def test_every_step_is_taken_in_order_and_the_summary_is_last(ci_run, tmp_path):
    done = ci_run()

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "calls").read_text().splitlines() == [
        "pip install -e .[dev]",
        "pytest ",
        "ruff check .",
        "ruff format --check .",
        "mypy ",
    ]
    assert done.stdout.splitlines()[-1] == SUMMARY
    assert list((tmp_path / "scratch").iterdir()) == [], "the environment is removed"


@pytest.mark.parametrize("failing", ["pip install", "pytest ", "ruff check", "ruff format", "mypy "])
def test_a_step_that_fails_fails_the_run(failing, ci_run, tmp_path):
    assert ci_run(failing=failing).returncode != 0
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("readme", ["", f"{COMMAND}\n", f"```sh\n{COMMAND} -x\n```\n", f"```sh\nls\n```\n{COMMAND}\n"])
def test_the_command_is_the_one_of_the_readme(readme, ci_run, tmp_path):
    done = ci_run(readme=readme)

    assert done.returncode == 1
    assert "README.md has no code block with the line" in done.stderr
    assert not (tmp_path / "calls").exists()
