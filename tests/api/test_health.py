"""GET /health, live and ready."""

import pytest

from tests.api.api_parts import asking, build_with_engine


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/health"])
async def test_all_is_well_while_the_engine_runs(path):
    app, _ = build_with_engine()
    async with asking(app) as client:
        answer = await client.get(path)

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_a_server_without_an_engine_lives_and_is_not_ready():
    app, engine = build_with_engine()
    async with asking(app) as client:
        engine.stop()
        statuses = [(await client.get(path)).status_code for path in ("/health/live", "/health/ready", "/health")]
        answer = await client.get("/health")

    assert statuses == [200, 503, 503]
    assert answer.json()["error"]["code"] == "engine_dead"
    assert answer.headers["retry-after"]
