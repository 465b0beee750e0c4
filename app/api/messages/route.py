"""POST /v1/messages, and how many tokens one would have: Anthropic's API, translated onto the chat path."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.body import add_post, read_body
from app.api.chat.calls import ChatCalls
from app.api.chat.translation import refusing_as
from app.api.errors import NoThreads
from app.api.messages.answer import MessageAnswer
from app.api.messages.input import NAMES, chat_of, conversation_of
from app.api.messages.stream import MessageWriter
from app.api.schemas.anthropic import ConversationRequest, Message, MessagesRequest, TokenCount
from app.engine.request import TokenEvent

PATH, COUNT_PATH = "/v1/messages", "/v1/messages/count_tokens"


@dataclass(frozen=True, slots=True)
class AnthropicMessages:
    calls: ChatCalls

    def router(self) -> APIRouter:
        router = APIRouter(tags=["generation"])
        add_post(router, PATH, self.create, MessagesRequest, answer=Message)
        add_post(router, COUNT_PATH, self.count, ConversationRequest, answer=TokenCount)
        return router

    async def create(self, request: Request) -> Response:
        """Answers a conversation; with `stream`, as server-sent events."""
        body = await read_body(request, MessagesRequest)
        if body.thread is not None:
            raise NoThreads
        with refusing_as(NAMES):
            call = await self.calls.prepare(request, chat_of(body))
        answer = MessageAnswer(request.state.request_id, call.plan)
        if body.stream:
            return self.calls.generation.stream(call, MessageWriter(answer, call.new_parser()))

        def render(choices: Sequence[Sequence[TokenEvent]]) -> Message:
            return answer.render(call.new_parser(), choices[0])

        return self.calls.generation.whole(call, render)

    async def count(self, request: Request) -> TokenCount:
        """How many tokens the prompt of a conversation has."""
        body = await read_body(request, ConversationRequest)
        with refusing_as(NAMES):
            call = await self.calls.prepare(request, conversation_of(body))
        return TokenCount(input_tokens=call.plan.num_prompt_tokens)
