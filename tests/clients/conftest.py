"""The server that the clients talk to, with the default model, and its tokenizer as a folder."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live_model import COMMAND, LiveModel, serve_model


@pytest.fixture(scope="session")
def server() -> Iterator[LiveModel]:
    with serve_model() as server:
        yield server


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    export_tokenizer("default", folder)
    return folder


def export_tokenizer(model: str, folder: Path) -> None:
    subprocess.run([*COMMAND[:-1], "export-tokenizer", model, str(folder)], check=True, stdout=subprocess.DEVNULL)
