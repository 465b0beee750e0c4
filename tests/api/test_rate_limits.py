"""Requests and tokens a minute: what is charged to whom, who is sent away until when, and what every answer tells."""

import asyncio
import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import anthropic
import httpx
import openai
import pytest
from limits.storage import MemoryStorage

from app.api.access import Access
from app.api.door import PATHS
from app.api.rate_limit_headers import NAMES, duration
from app.api.rate_limits import MinuteLimit
from app.engine.errors import TryAgain
from tests.api.api_parts import asking, build, build_with_engine
from tests.fakes import FakeRunner, says
from tests.live_server import serve

KEYS = (("ada", "a-secret-of-ada"), ("ada", "another-of-ada"), ("bob", "a-secret-of-bob"))
ADA, ADA_TOO, BOB = ({"x-api-key": key} for _, key in KEYS)
CHAT = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
BODIES = {
    "/v1/completions": {"prompt": "abc", "max_tokens": 2},
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"input": "a", "max_output_tokens": 2},
    "/v1/messages": CHAT,
    "/v1/embeddings": {"input": "a"},
    "/generate": {"input_ids": [1], "sampling_params": {"max_new_tokens": 2}},
}


class Clock:
    """Stands still at the beginning of a minute, until it is moved on."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


def no_weights(path: Path) -> NoReturn:
    """With it there is /generate."""
    raise AssertionError(path)


def limited(requests: int | None = None, tokens: int | None = None, runner: FakeRunner | None = None, keys=KEYS):
    access = Access(keys, ("*",), max_requests_per_minute=requests, max_tokens_per_minute=tokens)
    return build_with_engine(runner, access=access, load_weights=no_weights)


async def complete(client, headers=ADA, **body) -> httpx.Response:
    return await client.post("/v1/completions", json=BODIES["/v1/completions"] | body, headers=headers)


def left(answer: httpx.Response) -> dict[str, int]:
    return {
        unit: int(answer.headers[f"x-ratelimit-remaining-{unit}"])
        for unit in ("requests", "tokens")
        if f"x-ratelimit-remaining-{unit}" in answer.headers
    }


def assert_refused(answer: httpx.Response, unit: str) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert f"{unit} a minute" in error["message"]
    assert 1 <= int(answer.headers["retry-after"]) <= 120


# ── requests ──


async def test_so_many_requests_pass_a_minute_and_owners_are_apart(clock):
    async with asking(limited(requests=2)[0]) as client:
        answers = [await complete(client, who) for who in (ADA, ADA_TOO, BOB)]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert [left(answer) for answer in answers] == [{"requests": 1}, {"requests": 0}, {"requests": 1}]
        for who in (ADA, ADA_TOO):
            assert_refused(await complete(client, who), "requests")
        assert (await complete(client, BOB)).status_code == 200


async def test_who_comes_again_when_told_to_is_let_in_and_not_before(clock):
    async with asking(limited(requests=3)[0]) as client:
        clock.now += 20
        for _ in range(3):
            assert (await complete(client)).status_code == 200
        refused = await complete(client)
        assert (refused.headers["retry-after"], refused.headers["x-ratelimit-reset-requests"]) == ("41", "1m21s")
        clock.now += 40
        assert_refused(await complete(client), "requests")
        clock.now += 1
        assert (await complete(client)).status_code == 200
        assert_refused(await complete(client), "requests")


async def test_a_burst_of_a_hundred_passes_exactly_so_many():
    async with asking(limited(requests=37)[0]) as client:
        answers = await asyncio.gather(*(complete(client) for _ in range(100)))

    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (37, 63)


async def test_without_keys_the_whole_server_is_one_client(clock):
    async with asking(limited(requests=1, keys=())[0]) as client:
        assert (await complete(client, ADA)).status_code == 200
        assert_refused(await complete(client, BOB), "requests")


async def test_several_prompts_and_choices_are_one_request(clock):
    async with asking(limited(requests=3)[0]) as client:
        assert left(await complete(client, prompt=["a", "b"], n=3)) == {"requests": 2}


@pytest.mark.parametrize("path", sorted(PATHS))
async def test_every_generating_route_counts(path, clock):
    async with asking(limited(requests=1)[0]) as client:
        assert (await client.post(path, json=BODIES[path], headers=ADA)).status_code == 200
        assert_refused(await complete(client), "requests")
        assert (await client.post(path, json=BODIES[path], headers=ADA)).status_code == 429
        assert (await client.post(path, json=BODIES[path], headers=BOB)).status_code == 200


async def test_other_routes_cost_nothing_and_tell_nothing(clock):
    async with asking(limited(requests=1, tokens=20)[0]) as client:
        assert (await complete(client)).status_code == 200
        asked = [
            await client.post("/tokenize", json={"prompt": "a"}, headers=ADA),
            await client.post("/v1/messages/count_tokens", json={"messages": CHAT["messages"]}, headers=ADA),
            await client.post("/v1/completions/render", json=BODIES["/v1/completions"], headers=ADA),
            await client.get("/v1/models", headers=ADA),
            await client.get("/health"),
        ]
    assert [answer.status_code for answer in asked] == [200] * 5
    assert not any(name in NAMES for answer in asked for name in answer.headers)


async def test_nobody_reads_the_body_of_who_has_no_request_left(clock):
    app, _ = limited(requests=1)
    sent: list[dict] = []

    async def receive():
        raise AssertionError("the body is read")

    async def send(message) -> None:
        sent.append(message)

    async with asking(app) as client:
        assert (await complete(client)).status_code == 200
        headers = [(b"x-api-key", ADA["x-api-key"].encode()), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"", "headers": headers}
        await app(scope, receive, send)
    assert sent[0]["status"] == 429


# ── tokens ──


async def test_in_the_end_a_request_has_cost_its_usage(clock):
    """The model says 3 tokens ("ab" and the end), whatever more was asked for."""
    async with asking(limited(tokens=1000, runner=FakeRunner(says("ab")))[0]) as client:
        one = await complete(client, max_tokens=100)
        several = await complete(client, prompt=["abc", "abc"], n=2, best_of=3, max_tokens=50)
        embedded = await client.post("/v1/embeddings", json={"input": ["abcd", "e"]}, headers=ADA)
        usages = [answer.json()["usage"]["total_tokens"] for answer in (one, several, embedded)]

    assert usages == [3 + 3, 3 + 3 + 2 * 3 * 3, 5]
    assert [left(answer)["tokens"] for answer in (one, several, embedded)] == [994, 970, 965]


async def test_while_it_runs_a_stream_has_cost_all_that_it_may_generate(clock):
    may_go_on = threading.Event()

    def wait(batch) -> None:
        if len(runner.batches) > 2:
            may_go_on.wait(20)

    runner = FakeRunner(says("a" * 40), before_step=wait)
    async with asking(limited(tokens=100, runner=runner)[0]) as client:
        streamed = asyncio.create_task(complete(client, max_tokens=60, stream=True))
        while len(runner.batches) < 2:
            await asyncio.sleep(0.001)
        assert_refused(refused := await complete(client, max_tokens=60), "tokens")
        assert left(refused) == {"tokens": 37}
        may_go_on.set()
        answer = await streamed
        assert left(answer) == {"tokens": 37}
        assert left(await complete(client, max_tokens=1)) == {"tokens": 100 - 3 - 41 - 4}


def test_a_client_that_leaves_gets_back_what_it_did_not_have():
    runner = FakeRunner(before_step=lambda _: time.sleep(0.001), num_blocks=256, max_model_len=1000)
    with (
        serve(limited(tokens=1000, runner=runner)[0]) as server,
        httpx.Client(base_url=server.url, headers=ADA, timeout=20) as client,
    ):
        body = {"prompt": "abc", "max_tokens": 900, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as streamed:
            assert left(streamed) == {"tokens": 97}
            next(streamed.iter_raw())
        deadline = time.monotonic() + 20
        while left(client.post("/v1/embeddings", json={"input": "a"}))["tokens"] < 300:
            assert time.monotonic() < deadline


async def test_what_is_refused_costs_nothing(clock):
    app, engine = limited(requests=9, tokens=100)
    async with asking(app) as client:
        wrong = [
            await complete(client, temperature=3),
            await complete(client, model="other"),
            await complete(client, max_tokens=98),
            await client.post("/v1/completions", content=b"{", headers=ADA | {"content-type": "application/json"}),
        ]
        assert [answer.status_code for answer in wrong] == [400, 404, 400, 400]
        assert all(left(answer) == {"requests": 9, "tokens": 100} for answer in wrong)
        await asyncio.to_thread(engine.stop)
        dead = await complete(client)
    assert (dead.status_code, left(dead)) == (503, {"requests": 9, "tokens": 100})


async def test_a_full_queue_costs_nothing(clock, monkeypatch):
    app, engine = limited(requests=9, tokens=100)

    def refuse(submissions):
        raise TryAgain("The queue is full.", 7)

    async with asking(app) as client:
        monkeypatch.setattr(engine, "submit", refuse)
        refused = await complete(client)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
    assert left(refused) == {"requests": 9, "tokens": 100}


async def test_more_tokens_than_ever_is_no_case_for_waiting(clock):
    async with asking(limited(tokens=50)[0]) as client:
        refused = await complete(client, max_tokens=48)
        fits = await complete(client, max_tokens=47)

    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "exceeds_rate_limit", "max_tokens")
    assert "51 tokens" in error["message"]
    assert "50 a minute" in error["message"]
    assert "retry-after" not in refused.headers
    assert fits.status_code == 200


@pytest.mark.parametrize("n", [1, 3])
async def test_a_chat_that_names_no_limit_has_the_room_that_a_minute_has(n, clock):
    async with asking(limited(tokens=50)[0]) as client:
        answer = await client.post("/v1/chat/completions", json={"messages": CHAT["messages"], "n": n}, headers=ADA)

    prompt = answer.json()["usage"]["prompt_tokens"]
    assert answer.json()["usage"]["completion_tokens"] == (50 - prompt) // n * n
    assert left(answer)["tokens"] == (50 - prompt) % n


# ── what is told ──


async def test_every_answer_tells_how_its_client_stands(clock):
    async with asking(limited(requests=60, tokens=6000)[0]) as client:
        answers = [
            await complete(client),
            await complete(client, stream=True),
            await complete(client, temperature=3),
            await client.get("/v1/completions", headers=ADA),
        ]
    for answer, requests, tokens in zip(answers, (59, 58, 58), (5995, 5990, 5990), strict=False):
        told = {name: answer.headers[name] for name in NAMES if name in answer.headers}
        assert set(told) == {name for name in NAMES if name.startswith("x-")}
        assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-limit-tokens"]) == ("60", "6000")
        assert left(answer) == {"requests": requests, "tokens": tokens}
    assert answers[0].headers["x-ratelimit-reset-requests"] == "1m1s"
    assert not set(answers[3].headers) & set(NAMES)


async def test_web_pages_may_read_what_is_told(clock):
    async with asking(limited(requests=60)[0]) as client:
        answer = await complete(client, ADA | {"origin": "https://app.example"})
    assert set(NAMES) < {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}


async def test_anthropics_clients_are_told_in_their_words(clock):
    async with asking(limited(requests=1, tokens=6000)[0]) as client:
        first = await client.post("/v1/messages", json=CHAT, headers=ADA)
        refused = await client.post("/v1/messages", json=CHAT, headers=ADA)
        refused_in_openais = await complete(client)

    told = {name: first.headers[name] for name in NAMES if name in first.headers}
    assert set(told) == {name for name in NAMES if name.startswith("anthropic-")}
    assert told["anthropic-ratelimit-requests-remaining"] == "0"
    reset = datetime.fromisoformat(told["anthropic-ratelimit-requests-reset"])
    assert timedelta(0) < reset - datetime.now(UTC) < timedelta(minutes=2, seconds=1)
    assert (refused.status_code, refused.json()["type"]) == (429, "error")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert refused.json()["error"]["details"] == {"error_code": "rate_limit_exceeded"}
    assert int(refused.headers["retry-after"]) > 0
    assert "x-ratelimit-limit-requests" in refused_in_openais.headers


async def test_where_there_is_no_limit_nothing_is_told():
    async with asking(build()) as client:
        answer = await complete(client)
        assert (answer.status_code, set(answer.headers) & set(NAMES)) == (200, set())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0004, "1ms"),
        (0.02, "20ms"),
        (0.9995, "1s"),
        (1, "1s"),
        (59.2, "1m0s"),
        (61, "1m1s"),
        (360, "6m0s"),
    ],
)
def test_durations_are_openais(seconds, text):
    assert duration(seconds) == text


async def test_no_key_is_shown(clock, caplog):
    caplog.set_level(logging.DEBUG)
    async with asking(limited(requests=1, tokens=50)[0]) as client:
        answers = [await complete(client), await complete(client), await complete(client, BOB, max_tokens=99)]
    shown = "".join(f"{answer.text}{answer.headers}" for answer in answers) + caplog.text
    assert not any(key in shown for _, key in KEYS)


def test_real_clients_understand():
    with serve(limited(requests=2)[0]) as server:
        ada, bob = KEYS[0][1], KEYS[2][1]
        with openai.OpenAI(base_url=server.url + "/v1", api_key=ada, max_retries=0, timeout=20) as client:
            raw = client.chat.completions.with_raw_response.create(model="fake", **CHAT)
            assert raw.headers["x-ratelimit-remaining-requests"] == "1"
            list(client.chat.completions.create(model="fake", **CHAT, stream=True))
            with pytest.raises(openai.RateLimitError) as refused:
                client.chat.completions.create(model="fake", **CHAT)
            assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "rate_limit_error")
            assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"
        with anthropic.Anthropic(base_url=server.url, api_key=bob, max_retries=0, timeout=20) as client:
            for _ in range(2):
                client.messages.create(model="fake", **CHAT)
            with pytest.raises(anthropic.RateLimitError) as refused:
                client.messages.create(model="fake", **CHAT)
            assert refused.value.response.headers["anthropic-ratelimit-requests-remaining"] == "0"


# ── the window itself ──


@pytest.fixture
def window(clock):
    return MinuteLimit(100, "tokens", MemoryStorage())


@pytest.mark.parametrize("second", [0.0, 0.3, 17.0, 59.9])
@pytest.mark.parametrize("later", [0.0, 13.5, 45.0, 70.0])
@pytest.mark.parametrize("cost", [1, 50, 99, 100])
def test_a_wait_is_enough_and_none_is_too_long(window, clock, second, later, cost):
    clock.now += second
    window.charge("ada", 60)
    clock.now += later
    window.charge("ada", 40 if window.wait_s("ada", 40) == 0 else 0)
    start, wait_s = clock.now, window.wait_s("ada", cost)

    clock.now = start + wait_s
    assert window.wait_s("ada", cost) == 0
    if wait_s:
        clock.now = start + wait_s - 0.01
        assert window.wait_s("ada", cost) > 0


@pytest.mark.parametrize("second", [0.0, 31.0, 59.9])
def test_behind_its_reset_all_of_it_is_there(window, clock, second):
    clock.now += second
    window.charge("ada", 100)
    reset_s = window.standing("ada").reset_s
    assert window.standing("ada").remaining == 0

    clock.now += reset_s - 0.01
    assert window.standing("ada").remaining < 100
    clock.now += 0.01
    assert window.standing("ada").remaining == 100
    assert window.standing("ada").reset_s == 0


@pytest.mark.parametrize(("later", "remaining"), [(0, 90), (60, 90), (90, 95), (121, 100), (10_000, 100)])
def test_what_is_given_back_late_leaves_no_more_than_was_charged(window, clock, later, remaining):
    give_back = window.charge("ada", 100)
    clock.now += later
    give_back(90)

    assert window.standing("ada").remaining == remaining


def test_what_is_remembered_does_not_grow(clock):
    storage = MemoryStorage()
    window = MinuteLimit(10**9, "tokens", storage)
    for _ in range(40):
        give_back = window.charge("ada", 10**5)
        clock.now += 60
        give_back(10**4)
        storage.timer.join(20)  # it forgets on a thread

    assert len(storage.storage) + len(storage.expirations) + len(storage.locks) < 20
