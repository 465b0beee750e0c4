"""The server that the clients talk to, and where the clients are: each in an environment of its own, which the
environment names. Nothing is installed or fetched here; a test whose client is missing is skipped."""

from collections.abc import Callable, Iterator

import pytest

from tests.live_model import LiveModel, serve_default_model

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "OPENAI_API_KEY": "none",
    "NO_COLOR": "1",
}
SECONDS_FOR_A_PROGRAM = 280

Run = Callable[..., str]


@pytest.fixture(scope="session")
def server() -> Iterator[LiveModel]:
    with serve_default_model() as server:
        yield server
