"""The life of `slotwise serve` as a process: when it lets clients in, and every way in which it ends."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import httpx
import pytest

from app.main import describe, fingerprint
from app.settings import ServeSettings
from model.batch import SamplingParams
from model.errors import ModelError
from model.options import AdapterOption, LoadOptions
from model.self_test import SelfTest
from tests import serve_fake
from tests.slotwise_process import PATIENCE_S, Process, open_stream

ENDING = (signal.SIGINT, signal.SIGTERM)
PASSED = SelfTest(is_batch_invariant=True, num_steps=1, longest_step_s=0.0)


@pytest.fixture
def slotwise(tmp_path) -> Iterator[Callable[..., Process]]:
    """Starts a process that does not outlive the test."""
    started: list[Process] = []

    def start(behaviour: str, *words: str, port: int = 0) -> Process:
        started.append(Process(tmp_path, behaviour, "--port", str(port), *words))
        return started[-1]

    yield start
    for process in started:
        process.popen.kill()
        process.popen.communicate()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as finder:
        finder.bind(("127.0.0.1", 0))
        port: int = finder.getsockname()[1]
        return port


def test_serves_once_its_banner_is_out(slotwise):
    process = slotwise("answers", "--served-model-name", "a,b")

    models = httpx.get(f"{process.url}/v1/models").json()
    ready = httpx.get(f"{process.url}/health/ready")

    assert [model["id"] for model in models["data"]] == ["a", "b"]
    assert (ready.status_code, ready.headers.get("server")) == (200, None)
    assert process.err == "loading\n"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("behaviour", ["answers", "cannot chat"])
@pytest.mark.parametrize("words", [[], ["--api-key", "secret"]], ids=["open", "with a key"])
def test_the_curl_of_the_banner_works_as_it_is_printed(behaviour, words, slotwise):
    process = slotwise(behaviour, *words, "--served-model-name", "it's a model")
    assert process.url
    command = "curl -sS" + process.out.split("\n\ncurl")[1].rstrip()

    command = command.replace("YOUR-KEY", "secret")
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout

    choice = json.loads(answer)["choices"][0]
    assert (choice.get("text") or choice["message"]["content"]).startswith("Because. ")
    assert "secret" not in process.out + process.err


def test_a_key_guards_the_server(slotwise, tmp_path):
    (tmp_path / "keys").write_text("from-file\n")
    process = slotwise("answers", "--api-key", "from-flag", "--api-key-file", str(tmp_path / "keys"))

    statuses = [
        httpx.get(f"{process.url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code
        for key in ("from-flag", "from-file", "other")
    ]

    assert statuses == [200, 200, 401]


def test_sampling_defaults_are_those_that_the_model_recommends(monkeypatch):
    """The fake recommends temperature 0.5 and nothing else."""
    monkeypatch.setattr(sys, "argv", ["serve_fake", "answers"])
    served = describe(ServeSettings(), serve_fake.load(LoadOptions()), PASSED)

    assert served.defaults == SamplingParams(temperature=0.5)
    assert served.names == ("fake",)


def test_adapters_are_served_under_names_that_the_model_has_not(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["serve_fake", "answers"])
    loaded = replace(serve_fake.load(LoadOptions()), adapters=(AdapterOption("x", "a.pth"), AdapterOption("fake", "b")))

    with pytest.raises(ModelError, match="fake.gguf: is called fake, like one of its adapters"):
        describe(ServeSettings(), loaded, PASSED)
    served = describe(ServeSettings(served_model_name=["model"]), loaded, PASSED)
    assert [(adapter.name, adapter.root) for adapter in served.adapters] == [("x", "a.pth"), ("fake", "b")]
    assert served.fingerprint != fingerprint(replace(loaded, adapters=()), PASSED)
    assert served.fingerprint != fingerprint(replace(loaded, merged="c"), PASSED)


def test_the_fingerprint_is_of_all_that_an_answer_depends_on_but_the_request(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["serve_fake", "answers"])
    loaded, again = (serve_fake.load(LoadOptions()) for _ in range(2))
    own = fingerprint(loaded, PASSED)

    assert re.fullmatch(r"fp_[0-9a-f]{12}", own)
    assert fingerprint(again, PASSED) == own == describe(ServeSettings(), loaded, PASSED).fingerprint
    assert fingerprint(again, replace(PASSED, num_steps=3, longest_step_s=1.0, is_batch_invariant=None)) == own
    assert fingerprint(again, replace(PASSED, is_batch_invariant=False)) != own
    assert fingerprint(replace(loaded, name="other"), PASSED) != own
    for change in ({"kv_dtype": "int8"}, {"num_threads": 2}, {"instruction_set": "avx2"}):
        again.runner.info = replace(loaded.runner.info, **change)
        assert fingerprint(again, PASSED) != own
    prints = set()
    for num_threads in (1, 2):
        again.runner.info = replace(loaded.runner.info, backend="native", num_threads=num_threads)
        prints.add(fingerprint(again, PASSED))
    assert len(prints) == 1, "its answers do not depend on them"


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_an_idle_server_in_order(number, slotwise):
    process = slotwise("answers")
    assert process.url
    process.signal(number)

    assert process.status() == 0
    assert process.err == "loading\n"


def test_ctrl_c_ends_open_streams_at_once_with_an_error(slotwise):
    process = slotwise("crawls")
    with open_stream(process.url) as lines:
        process.signal(signal.SIGINT)
        events = [line for line in lines if line]

    assert process.status() == 0
    assert any('"error"' in event and "shutting down" in event for event in events)


def test_an_idle_connection_does_not_delay_the_end(slotwise):
    process = slotwise("answers")
    with httpx.Client(base_url=process.url) as client:
        assert client.get("/health").status_code == 200
        process.signal(signal.SIGTERM)

        assert process.status() == 0
    assert process.err == "loading\n"


def test_a_request_that_never_arrives_whole_does_not_keep_the_server(slotwise):
    process = slotwise("answers")
    host, port = process.url.removeprefix("http://").split(":")
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head)
        assert client.recv(12) == b"HTTP/1.1 100"  # it waits for the body now
        process.signal(signal.SIGTERM)

        assert process.status() == 0


def test_a_second_signal_ends_at_once_what_the_first_cannot(slotwise):
    process = slotwise("hangs")
    with suppress(httpx.ReadTimeout):
        httpx.post(f"{process.url}/v1/completions", json={"prompt": "x"}, timeout=0.5)
    process.signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.popen.wait(0.5)
    assert process.popen.poll() is None
    process.signal(signal.SIGINT)

    assert process.status() == 130


def test_a_step_that_never_returns_does_not_keep_the_server(slotwise):
    process = slotwise("hangs")
    with suppress(httpx.ReadTimeout):
        httpx.post(f"{process.url}/v1/completions", json={"prompt": "x"}, timeout=0.5)
    process.signal(signal.SIGTERM)

    assert process.status() == 1
    assert "the engine has made no progress" in process.err


def test_the_engines_death_is_a_failure_of_the_server(slotwise):
    process = slotwise("dies")
    response = httpx.post(f"{process.url}/v1/completions", json={"prompt": "x"}, timeout=PATIENCE_S)

    assert response.status_code >= 500
    assert process.status() == 1


def test_nobody_is_let_in_while_the_model_loads(slotwise, free_port):
    process = slotwise("loads until told", port=free_port)
    process.wait_until_loading()

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", free_port))


def test_a_port_that_another_took_while_the_model_loaded_is_told_of(slotwise, free_port):
    process = slotwise("loads until told", port=free_port)
    process.wait_until_loading()
    with socket.create_server(("127.0.0.1", free_port)):
        process.popen.communicate()  # no more input: it may go on

        assert process.status() == 2
    assert f"port {free_port}: another program uses this port" in process.err
    assert "Traceback" not in process.err


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_while_the_model_loads_ends_at_once(number, slotwise):
    process = slotwise("loads until told")
    process.wait_until_loading()
    process.signal(number)

    assert process.status() == 128 + number
    assert process.err == "loading\nslotwise serve: interrupted.\n"


def test_a_model_that_cannot_be_loaded_is_one_paragraph(slotwise):
    process = slotwise("cannot load")

    assert process.status() == 2
    assert process.out == ""
    assert process.err == "loading\nslotwise serve: error: folder/model.gguf: tensor 'output.weight' is missing.\n"


def test_a_model_that_fails_its_self_test_is_one_paragraph_before_the_port_opens(slotwise, free_port):
    process = slotwise("cannot compute", port=free_port)

    assert process.status() == 2
    assert process.out == ""
    problem = "folder/fake.gguf: the warm-up failed: ArithmeticError: overflow"
    assert process.err == f"loading\nslotwise serve: error: {problem}\n"


def test_what_the_self_test_found_is_told_in_the_log_and_in_version(slotwise):
    process = slotwise("depends on slots")
    version = httpx.get(f"{process.url}/version").json()

    assert version["batch_invariant"] is False
    assert version["batch_invariance_remark"].startswith("token 0 of a greedy answer: 66 with -0.5")
    assert " INFO app.main: an answer depends on what is computed beside it: token 0 of a greedy" in process.err


def test_a_busy_port_is_known_before_the_model_is_loaded(slotwise):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = slotwise("answers", port=port)

        assert process.status() == 2
    assert process.err.startswith(f"slotwise serve: error: cannot listen on 127.0.0.1 port {port}: another program")
    assert "loading" not in process.err
