"""The programs of this folder, each in its client's own environment, against a live server with the default model.

    pytest -m clients tests/clients

A check of a program is a test here. What it says of an answer is what the client understood of it (types, reasons,
valid JSON, the stream as the whole), never the wit of a small model.
"""

import ast
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model.default_model import DEFAULT_MODEL
from tests.clients.environments import clients_python, program, run
from tests.live_model import LiveModel

FOLDER = Path(__file__).parent
PROGRAMS = FOLDER / "programs"
RUNNER = FOLDER / "run_checks.py"
NODE_CHECK = re.compile(r"^  async (\w+)\(\) \{$", re.MULTILINE)

pytestmark = pytest.mark.clients

Report = dict[str, Any]


def checks() -> Iterator[tuple[str, str]]:
    """Every program with each of its checks, found without running it: its libraries need not be here."""
    for path in sorted(PROGRAMS.glob("*.py")):
        functions = (
            node
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        )
        yield from ((path.name, node.name) for node in functions if not node.name.startswith("_"))
    for path in sorted(PROGRAMS.glob("*.mjs")):
        yield from ((path.name, name) for name in NODE_CHECK.findall(path.read_text()))


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest, server: LiveModel, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What a program says, run once for all of its checks."""
    folder = tmp_path_factory.mktemp("program")
    return dict(json.loads(run([*command(request.param), server.url, DEFAULT_MODEL.name], folder)))


def command(name: str) -> list[str]:
    if name.endswith(".py"):
        return [clients_python(), str(RUNNER), str(PROGRAMS / name)]
    if "SLOTWISE_CLIENTS_NODE" not in os.environ:
        pytest.skip("SLOTWISE_CLIENTS_NODE does not name a folder with openai in it")
    return [program("node", None), str(PROGRAMS / name)]


@pytest.mark.parametrize(("report", "check"), [*checks()], indirect=["report"], scope="module")
def test_a_program(report: Report, check: str) -> None:
    if "missing" in report:
        pytest.skip(f"{clients_python()} has no {report['missing']}")
    assert report["checks"][check] == "", report["checks"][check]
