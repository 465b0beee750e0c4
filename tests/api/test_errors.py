"""One body for every error, whatever raised it and wherever."""

import pytest
from pydantic import ValidationError

from app.api.errors import (
    InvalidRequest,
    error_body,
    error_response,
    invalid_request,
    kinds_of_errors,
    kinds_of_statuses,
)
from app.api.schemas.completions import CompletionRequest
from app.engine.errors import TryAgain
from tests.api.api_parts import asking, build, build_with_engine, served_model
from tests.fakes import ByteTokenizer, FakeRunner


class Broken(ByteTokenizer):
    def encode(self, text: str, add_special_tokens: bool = True, *, mark: str = "") -> list[int]:
        raise RuntimeError("something nobody thought of: a secret")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/v1/completion", 404, "not_found"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("GET", "/health/", 404, "not_found"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/v1/models/../../x", 404, "not_found"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there(method, path, status, code):
    async with asking(build()) as client:
        answer = await client.request(method, path)

    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("name", ["other", "../../etc/passwd", "FAKE", "fake ", "x" * 256])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
async def test_an_unknown_model_is_not_found(path, name):
    body = {"/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]}, "/detokenize": {"tokens": [1]}}
    async with asking(build()) as client:
        answer = await client.post(path, json=body.get(path, {"prompt": "a"}) | {"model": name})

    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "fake, also-fake" in error["message"]


async def test_what_nobody_foresaw_is_a_500_that_tells_nothing_but_its_id():
    app = build(served=served_model(tokenizer=Broken()))
    async with asking(app, raise_app_exceptions=False) as client:
        answer = await client.post("/v1/completions", json={"prompt": "a"}, headers={"x-request-id": "mine"})

    assert answer.status_code == 500
    assert answer.headers.get_list("x-request-id") == ["mine"]
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_has_ended_is_a_503_to_come_back_after(path, stream):
    app, engine = build_with_engine()
    async with asking(app) as client:
        engine.stop()
        body = {"stream": stream, "messages": [{"role": "user", "content": "a"}]}
        answer = await client.post(path, json=body if "chat" in path else {"stream": stream, "prompt": "a"})
        slots = await client.get("/slots")

    assert answer.status_code == slots.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["error"]["type"] == "server_error"


async def test_too_long_a_prompt_names_the_figures():
    async with asking(build(FakeRunner(max_model_len=10))) as client:
        answer = await client.post("/v1/completions", json={"prompt": "abcdefgh", "max_tokens": 3})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "max_tokens"
    assert "at most 2 tokens" in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", kinds_of_errors(), ids=lambda kind: kind.__name__)
def test_no_body_is_longer_than_2_kb(kind):
    error = InvalidRequest("😀" * 9999, "😀" * 9999) if kind is InvalidRequest else kind("😀" * 9999)

    assert len(error_response(error, {"path": "/v1/completions"}).body) <= 2048
    assert set(error_body(error)["error"]) == {"message", "type", "param", "code"}


def test_whoever_is_sent_away_for_now_is_told_when_to_come_back():
    assert all(kind.status not in (429, 503) for kind in kinds_of_statuses().values())
    assert any(kind.status == 503 for kind in kinds_of_errors().values())
    for kind, known in kinds_of_errors().items():
        error = kind("a", "b") if kind is InvalidRequest else kind("a")
        answer = error_response(error, {"path": "/v1/completions"})
        assert (known.status in (429, 503)) == ("retry-after" in answer.headers), kind


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (7.1, "8")])
def test_when_to_come_back_is_whole_seconds_and_never_too_soon(seconds, header):
    answer = error_response(TryAgain("Full.", seconds), {"path": "/v1/completions"})

    assert (answer.status_code, answer.headers["retry-after"]) == (429, header)


def test_a_validation_error_is_told_without_its_input():
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"prompt": "a", "top_p": "s3cr3t"})

    assert str(invalid_request(caught.value)) == "top_p: input should be a valid number"
