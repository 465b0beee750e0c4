"""API keys: what they guard, and that nothing about a path or a key gets past them."""

import pytest
from starlette.requests import Request

from app.api.auth import ApiKeys
from tests.api.api_parts import asking, build, owned

KEYS = ["first-key", "sécond-key"]
GUARDED = ["/v1/models", "/metrics", "/slots", "/docs", "/openapi.json", "/redoc", "/nowhere", "/"]
TRICKS = [
    "//health",
    "/health/",
    "/Health",
    "/health/../v1/models",
    "/health//live",
    "/health/live/",
    "/health;/v1/models",
    "/./health",
    "/health/.",
    "/health/x",
    "/v1/models/../../health",
    "health",
    "",
    "/health\0",
    "/health?",
    "/health#",
    "/health\\..\\v1",
    "http://x/health",
]


@pytest.fixture
async def client():
    async with asking(build(api_keys=KEYS)) as client:
        yield client


def assert_locked(answer):
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"]
    assert answer.json()["error"]["code"] == "invalid_api_key"


async def status_of(app, path: str) -> int:
    """Of a GET whose path the server decoded to `path`, which an HTTP client would not send as it is."""
    sent: list[dict] = []

    async def send(message) -> None:
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b""}

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
    }
    async with app.router.lifespan_context(app):
        await app(scope, receive, send)
    return sent[0]["status"]


@pytest.mark.parametrize("path", GUARDED)
async def test_every_route_but_health_is_guarded(client, path):
    assert_locked(await client.get(path))
    assert_locked(await client.post(path, json={"prompt": "a"}))
    assert_locked(await client.options(path))


@pytest.mark.parametrize("path", TRICKS)
async def test_a_path_that_is_almost_health_is_guarded(path):
    assert await status_of(build(api_keys=KEYS), "/health") == 200
    assert await status_of(build(api_keys=KEYS), path) == 401


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
async def test_health_is_open(client, path):
    assert (await client.get(path)).status_code == 200


async def test_the_host_header_opens_nothing(client):
    assert_locked(await client.get("/v1/models", headers={"host": "x/health?"}))
    assert_locked(
        await client.get("/v1/models", headers={"x-forwarded-prefix": "/health", "x-original-url": "/health"})
    )


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_each_key_opens(client, key, scheme):
    answer = await client.get("/v1/models", headers={"authorization": f"{scheme} {key}".encode()})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer wrong",
        b"Bearer first-ke",
        b"Bearer first-keyy",
        b"Basic first-key",
        b"first-key",
        b"Bearer FIRST-KEY",
        b"Bearer first-key, first-key",
        b"Bearer \xff\xfe",
        b"Bearer " + b"a" * 1_000_000,
    ],
    ids=lambda value: repr(value[:16]),
)
async def test_anything_else_does_not(client, value):
    assert_locked(await client.get("/v1/models", headers={"authorization": value}))


async def test_two_keys_are_none(client):
    for name, value in (("authorization", "Bearer first-key"), ("x-api-key", "first-key")):
        assert_locked(await client.get("/v1/models", headers=[(name, value), (name, value)]))


async def test_anthropics_header_opens_as_well(client):
    for key in KEYS:
        assert (await client.get("/v1/models", headers={"x-api-key": key.encode()})).status_code == 200
    for value in (b"", b"wrong", b"Bearer first-key"):
        assert_locked(await client.get("/v1/models", headers={"x-api-key": value}))


async def test_where_both_headers_are_sent_openais_decides(client):
    right, wrong = "Bearer first-key", "Bearer wrong"

    assert (await client.get("/v1/models", headers={"authorization": right, "x-api-key": "x"})).status_code == 200
    assert_locked(await client.get("/v1/models", headers={"authorization": wrong, "x-api-key": "first-key"}))


async def owner_seen(keys: list[str], path: str, headers: list[tuple[bytes, bytes]]) -> str:
    """What `request.state.owner` says behind the guard."""
    seen: list[str] = []

    async def app(scope, receive, send) -> None:
        seen.append(Request(scope).state.owner)

    await ApiKeys(app, owned(keys))({"type": "http", "path": path, "headers": headers}, None, None)
    return seen[0]


async def test_a_request_belongs_to_its_keys_place_among_the_keys():
    for place, key in enumerate(KEYS, 1):
        assert await owner_seen(KEYS, "/v1/models", [(b"authorization", b"Bearer " + key.encode())]) == f"key-{place}"
        assert await owner_seen(KEYS, "/v1/models", [(b"x-api-key", key.encode())]) == f"key-{place}"


async def test_without_keys_all_requests_belong_to_one():
    assert await owner_seen([], "/v1/models", []) == ""
    assert await owner_seen([], "/v1/models", [(b"authorization", b"Bearer first-key")]) == ""


async def test_without_keys_everything_is_open():
    async with asking(build()) as client:
        assert (await client.get("/v1/models")).status_code == 200


async def test_all_keys_are_compared_in_constant_time(monkeypatch):
    compared: list[bytes] = []

    def compare(sent: bytes, known: bytes) -> bool:
        compared.append(known)
        return sent == known

    monkeypatch.setattr("app.api.auth.hmac.compare_digest", compare)
    keys = ApiKeys(build(), owned(KEYS))

    scope = {"path": "/v1/models", "headers": [(b"authorization", b"Bearer first-key")]}
    assert keys._owner(scope) == "key-1"
    assert len(set(compared)) == 2
    assert len({len(known) for known in compared}) == 1
