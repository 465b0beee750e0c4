"""GET /v1/models."""

from tests.api.api_parts import asking, build, served_model

FAKE = {
    "id": "fake",
    "object": "model",
    "created": 1_700_000_000,
    "owned_by": "slotwise",
    "root": "folder/fake",
    "parent": None,
    "max_model_len": 128,
}


async def test_every_name_is_listed():
    async with asking(build()) as client:
        answer = await client.get("/v1/models")

    assert answer.json() == {"object": "list", "data": [FAKE, FAKE | {"id": "also-fake"}]}


async def test_each_can_be_asked_for_also_with_a_slash_in_its_name():
    async with asking(build(served=served_model(names=("org/fake",)))) as client:
        assert (await client.get("/v1/models/org/fake")).json() == FAKE | {"id": "org/fake"}
        assert (await client.get("/v1/models/fake")).status_code == 404
