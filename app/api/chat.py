"""POST /v1/chat/completions: messages, and the assistant's next."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.answers import AnswerPlan, Piece
from app.api.body import describe_body, read_body
from app.api.generation import Generation
from app.api.logprobs import TokenTexts, chat_logprobs
from app.api.prompts import chat_token_ids
from app.api.schemas.chat import AssistantMessage, ChatChoice, ChatCompletion, ChatLogprobs, ChatRequest
from app.api.schemas.generation import Usage
from app.engine.request import TokenEvent

PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Chat:
    generation: Generation

    def router(self) -> APIRouter:
        router = APIRouter(tags=["generation"])
        router.add_api_route(
            PATH,
            self.create,
            methods=["POST"],
            responses={200: {"model": ChatCompletion}},
            openapi_extra=describe_body(PATH, ChatRequest),
        )
        return router

    async def create(self, request: Request) -> Response:
        """Answers a conversation; with `stream`, as server-sent events."""
        body = await read_body(request, ChatRequest)
        served = self.generation.served
        served.require(body.model)
        prompt = await asyncio.to_thread(chat_token_ids, body.messages, served)
        answer_format = ChatFormat(TokenTexts(served.tokenizer))
        return self.generation.respond(request, body, [prompt], answer_format, self.generation.engine.room_for)


@dataclass(frozen=True, slots=True)
class ChatFormat:
    texts: TokenTexts
    id_prefix: str = "chatcmpl"
    chunk_object: str = "chat.completion.chunk"

    def delta(self, text: str, is_first: bool) -> str:
        if is_first:
            return f'"delta":{{"role":"assistant","content":{json.dumps(text)}}}'
        return f'"delta":{{"content":{json.dumps(text)}}}' if text else '"delta":{}'

    def logprobs(self, tokens: Sequence[TokenEvent], num_characters: int) -> tuple[ChatLogprobs, int]:
        return chat_logprobs(tokens, self.texts), num_characters

    def answer(self, plan: AnswerPlan, pieces: Sequence[Piece], usage: Usage) -> ChatCompletion:
        choices = [self._choice(plan, piece) for piece in pieces]
        return ChatCompletion(id=plan.id, created=plan.created, model=plan.model, choices=choices, usage=usage)

    def _choice(self, plan: AnswerPlan, piece: Piece) -> ChatChoice:
        assert piece.finish_reason is not None
        return ChatChoice(
            index=piece.index,
            message=AssistantMessage(content=piece.text),
            logprobs=chat_logprobs(piece.tokens, self.texts) if plan.with_logprobs else None,
            finish_reason=piece.finish_reason,
            stop_reason=piece.stop_reason,
            token_ids=piece.token_ids if plan.with_token_ids else None,
        )
