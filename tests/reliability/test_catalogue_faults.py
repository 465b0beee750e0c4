"""What a server of this kind must survive, entries 38 and 41 to 43 of the catalogue: overload, faults of the model, an
engine that dies or hangs, and being told to end."""

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import pytest

from app.api.access import Access
from model.batch import NOT_FINITE, Batch, ChunkResult, StepOutput
from tests.api.api_parts import build, events_of
from tests.fakes import FakeRunner
from tests.live_server import LiveServer, serve
from tests.reliability.catalogue import KEY, PROMPT, SECONDS, Target, nobody_is_harmed, refused
from tests.slotwise_process import PATIENCE_S, Process, open_stream

CULPRIT = 7  # a prompt of this token is the one at fault
NUM_INNOCENT = 6


@contextmanager
def serving(runner: FakeRunner, **options: int) -> Iterator[Target]:
    access = Access((("ada", KEY),))
    with (
        serve(build(runner, access=access, **options)) as server,
        httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {KEY}"}, timeout=SECONDS) as client,
    ):
        yield Target(server, client)


def ask(server: LiveServer, token_id: int, *, stream: bool, max_tokens: int = 6) -> httpx.Response:
    body = {"prompt": [token_id], "max_tokens": max_tokens, "stream": stream, "return_token_ids": True}
    headers = {"authorization": f"Bearer {KEY}"}
    return httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=PATIENCE_S)


def tokens(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "application/json":
        return list(answer.json()["choices"][0]["token_ids"])
    events = [json.loads(event) for event in events_of(answer.text) if event != "[DONE]"]
    return [token for event in events for choice in event["choices"] for token in choice.get("token_ids") or []]


# ── 38 ──


def test_38_ten_times_more_than_it_can_do(caplog):
    """Everybody has an answer: the right one, or when to come again."""
    gate = threading.Semaphore(0)
    runner = FakeRunner(num_blocks=64, before_step=lambda batch: gate.acquire(timeout=SECONDS) and None)
    with (
        serving(runner, max_num_seqs=4, max_queued_requests=4) as target,
        ThreadPoolExecutor(80) as clients,
    ):
        answers = [clients.submit(ask, target.server, 1 + n % 5, stream=n % 2 == 0) for n in range(80)]
        while sum(answer.done() for answer in answers) < 72:  # those that are sent away need no step
            assert all(answer.result().status_code == 429 for answer in answers if answer.done())
        gate.release(10_000)
        whole = [answer.result() for answer in answers]
        with nobody_is_harmed(target, caplog):
            """Once it is over, all is as before."""
    sent_away = [answer for answer in whole if answer.status_code == 429]
    assert len(sent_away) == 72
    for answer in sent_away:
        assert refused(answer, 429)["code"] == "queue_full"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    for number, answer in enumerate(whole):
        if answer.status_code != 429:
            assert tokens(answer) == [(1 + number % 5) * 2**power % 256 for power in range(6)]


# ── 41 ──


def raises(error: Exception) -> Callable[[], FakeRunner]:
    """A step fails for as long as the culprit's prompt is in it, or has been read."""

    def before_step(batch: Batch) -> None:
        if any(chunk.token_ids[:1] == (CULPRIT,) for chunk in batch.chunks):
            raise error

    return lambda: FakeRunner(num_blocks=64, before_step=before_step)


class NotFinite(FakeRunner):
    """… has logits that are no numbers."""

    def run(self, batch: Batch) -> StepOutput:
        results = super().run(batch).results
        pairs = zip(batch.chunks, results, strict=True)
        return StepOutput(
            tuple(ChunkResult(error=NOT_FINITE) if c.token_ids[:1] == (CULPRIT,) else r for c, r in pairs)
        )


@pytest.mark.parametrize(
    "runner",
    [raises(RuntimeError(PROMPT)), raises(MemoryError()), raises(OSError()), lambda: NotFinite(num_blocks=64)],
    ids=["exception", "out of memory", "system", "not a number"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_41_a_fault_of_the_model_fails_whose_it_is_and_nobody_else(runner, stream, caplog):
    with serving(runner()) as target, nobody_is_harmed(target, caplog), ThreadPoolExecutor(2 * NUM_INNOCENT) as clients:
        asked = [1, 2, CULPRIT, 3, 4, CULPRIT, 5, 6]
        answers = [clients.submit(ask, target.server, token_id, stream=stream, max_tokens=60) for token_id in asked]
        for token_id, answer in zip(asked, [answer.result() for answer in answers], strict=True):
            if token_id == CULPRIT:
                assert refused(answer, 500)["type"] == "server_error"
            else:
                assert tokens(answer) == [token_id * 2**power % 256 for power in range(60)]
        caplog.clear()  # an exception's own words are in the log, and in this one they are the prompt


# ── 42, 43 ──


@pytest.fixture
def slotwise(tmp_path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(behaviour: str, *words: str) -> Process:
        started.append(Process(tmp_path, behaviour, "--port", "0", *words))
        return started[-1]

    yield start
    for process in started:
        process.popen.kill()
        process.popen.communicate()


def complete(url: str, **fields: object) -> httpx.Response:
    body = {"prompt": PROMPT, "max_tokens": 40} | fields
    return httpx.post(f"{url}/v1/completions", json=body, timeout=PATIENCE_S)


def status_of(url: str, **fields: object) -> int | None:
    """None: it is no longer there."""
    try:
        return complete(url, **fields).status_code
    except httpx.ConnectError:
        return None


@pytest.mark.parametrize("behaviour", ["dies", "hangs"])
def test_42_an_engine_that_dies_or_hangs_tells_everybody_and_ends_the_process(behaviour, slotwise):
    """A supervisor sees a status that is not 0, and starts it anew."""
    process = slotwise(behaviour, "--max-num-seqs", "2")
    url = process.url
    with ThreadPoolExecutor(8) as clients:
        statuses = set(clients.map(lambda number: status_of(url, stream=number % 2 == 0), range(8)))

    assert 503 in statuses
    assert statuses <= {503, None}
    assert process.status() == 1
    assert PROMPT not in process.err + process.out
    if behaviour == "hangs":
        assert "the engine has made no progress" in process.err
        assert "serve_fake.py" in process.err, "where it is stuck"


def test_43_sigterm_lets_what_was_accepted_finish_and_takes_nothing_more(slotwise):
    process = slotwise("crawls")
    url = process.url
    with open_stream(url, max_tokens=30) as lines, ThreadPoolExecutor(1) as clients:
        whole = clients.submit(complete, url)
        while len(httpx.get(f"{url}/slots").json()["slots"]) < 2:
            """The second has its slot soon."""
        process.signal(signal.SIGTERM)
        while httpx.get(f"{url}/health/ready").status_code == 200:
            """It hears of it soon."""
        late, alive = complete(url), httpx.get(f"{url}/health/live")
        events = [line for line in lines if line]
        answer = whole.result()

    assert refused(late, 503)["code"] == "shutting_down"
    assert int(late.headers["retry-after"]) >= 1
    assert late.headers["connection"] == "close"
    assert alive.status_code == 200
    assert events[-1] == "data: [DONE]"
    assert not any('"error"' in event for event in events)
    assert answer.json()["usage"]["completion_tokens"] == 40
    assert process.status() == 0
    assert PROMPT not in process.err


def test_43_what_is_not_finished_when_the_drain_is_over_is_cut_with_an_error(slotwise):
    process = slotwise("crawls", "--drain-timeout", "0.5")
    with open_stream(process.url) as lines:
        process.signal(signal.SIGTERM)
        events = [line for line in lines if line]

    assert "shutting down" in json.loads(events[-1].removeprefix("data: "))["error"]["message"]
    assert process.status() == 0


def test_43_a_second_sigterm_is_immediate(slotwise):
    process = slotwise("crawls")
    with open_stream(process.url) as lines:
        process.signal(signal.SIGTERM)
        process.wait_until(lambda: "draining" in process.err)
        process.signal(signal.SIGTERM)
        with suppress(httpx.RemoteProtocolError):  # cut in the middle
            list(lines)

    assert process.status() == 128 + signal.SIGTERM
    with pytest.raises(ConnectionRefusedError), socket.create_connection(process.address):
        """Nobody is there."""
