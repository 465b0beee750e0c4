"""Where the clients are: each in an environment of its own, which the environment names or PATH finds. Installs and
fetches nothing; a test whose client is not there is skipped.

    SLOTWISE_CLIENTS_PYTHON   python with requirements.txt; else the one that runs the tests, for what it has
    SLOTWISE_TOOLS_PYTHON     python with requirements-tools.txt
    SLOTWISE_CLIENTS_NODE     folder in which `npm install openai` was run
    SLOTWISE_VLLM             the program vllm
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

SECONDS_FOR_A_CLIENT = 280
# What the tests themselves run with must not reach into another environment.
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def clients_python() -> str:
    return os.environ.get("SLOTWISE_CLIENTS_PYTHON", sys.executable)


def program(name: str, given: str | None) -> str:
    """`given`: what the environment says, if anything."""
    path = shutil.which(given or name)
    if path is None:
        pytest.skip(f"there is no {given or name}")
    return path


def tool(name: str) -> str:
    """A program beside the python of the load tests' environment."""
    python = os.environ.get("SLOTWISE_TOOLS_PYTHON")
    return program(name, python and str(Path(python).with_name(name)))


def run(command: Sequence[str], folder: Path, variables: Mapping[str, str] = OFFLINE) -> str:
    """Its standard output. Its working directory is `folder`, which also is where it may keep what it caches."""
    inherited = {name: value for name, value in os.environ.items() if name not in OURS}
    ended = subprocess.run(
        command,
        cwd=folder,
        env=inherited | {"HF_HOME": str(folder / "huggingface"), "NO_COLOR": "1"} | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_FOR_A_CLIENT,
    )
    assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}"
    return ended.stdout
