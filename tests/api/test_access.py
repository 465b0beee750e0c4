"""Web pages of other origins: none may ask but those that are named; and names of keys on their way to the routes."""

import pytest

from app.api.access import Access
from tests.api.api_parts import asking, build

HOME = "https://app.example"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-api-key",
}


@pytest.mark.parametrize(("origins", "origin"), [((HOME,), HOME), (("*",), "https://other.example")])
async def test_a_page_that_is_named_may_ask(origins, origin):
    access = Access((("ada", "a-key"),), origins)
    async with asking(build(access=access)) as client:
        asked = await client.options("/v1/completions", headers=PREFLIGHT | {"origin": origin})
        answer = await client.get("/v1/models", headers={"origin": origin, "authorization": "Bearer a-key"})
        locked = await client.get("/v1/models", headers={"origin": origin})

    assert (asked.status_code, answer.status_code, locked.status_code) == (200, 200, 401)
    assert "authorization" in asked.headers["access-control-allow-headers"]
    for told in (asked, answer, locked):
        assert told.headers["access-control-allow-origin"] in (origin, "*")
        assert "access-control-allow-credentials" not in told.headers
        assert told.headers["x-request-id"]


@pytest.mark.parametrize("origins", [(), (HOME,)])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", HOME + ".evil.example", "http://app.example"])
async def test_another_page_is_told_nothing(origins, origin):
    async with asking(build(access=Access(origins=origins))) as client:
        asked = await client.options("/v1/completions", headers=PREFLIGHT | {"origin": origin})
        answer = await client.get("/v1/models", headers={"origin": origin})

    assert asked.status_code in (400, 405)
    for told in (asked, answer):
        assert "access-control-allow-origin" not in told.headers


async def test_an_owner_may_have_several_keys():
    access = Access((("ada", "one"), ("ada", "two"), ("key-3", "three")))
    async with asking(build(access=access)) as client:
        for key in ("one", "two", "three"):
            assert (await client.get("/v1/models", headers={"x-api-key": key})).status_code == 200
