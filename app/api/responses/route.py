"""POST /v1/responses: OpenAI's newer API, translated onto the chat path. Nothing of an answer is kept."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.body import add_post, read_body
from app.api.chat.calls import ChatCalls
from app.api.chat.translation import refusing_as
from app.api.logprobs import TokenTexts
from app.api.responses.answer import ResponseAnswer
from app.api.responses.input import NAMES, chat_of
from app.api.responses.stream import ResponseWriter
from app.api.schemas.response_objects import ModelResponse
from app.api.schemas.responses import ResponsesRequest
from app.engine.request import TokenEvent

PATH = "/v1/responses"


@dataclass(frozen=True, slots=True)
class Responses:
    calls: ChatCalls

    def router(self) -> APIRouter:
        router = APIRouter(tags=["generation"])
        add_post(router, PATH, self.create, ResponsesRequest, answer=ModelResponse)
        return router

    async def create(self, request: Request) -> Response:
        """Answers a conversation; with `stream`, as server-sent events."""
        body = await read_body(request, ResponsesRequest)
        with refusing_as(NAMES):
            call = await self.calls.prepare(request, chat_of(body))
        generation = self.calls.generation
        sampling = call.submissions[0].params.sampling
        texts = TokenTexts(generation.served.tokenizer)
        answer = ResponseAnswer(request.state.request_id, body, call.plan, sampling, texts)
        if body.stream:
            return generation.stream(call, ResponseWriter(answer, call.new_parser()))

        def render(choices: Sequence[Sequence[TokenEvent]]) -> ModelResponse:
            return answer.render(call.new_parser(), choices[0])

        return generation.whole(call, render)
