"""POST /v1/completions: a text, or several, and how each goes on."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.answers import AnswerPlan, Piece
from app.api.body import describe_body, read_body
from app.api.generation import Generation
from app.api.logprobs import TokenTexts, completion_logprobs
from app.api.prompts import text_token_ids
from app.api.schemas.completions import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from app.api.schemas.generation import Usage
from app.engine.request import TokenEvent

PATH = "/v1/completions"
DEFAULT_MAX_TOKENS = 16  # OpenAI's


@dataclass(frozen=True, slots=True)
class Completions:
    generation: Generation

    def router(self) -> APIRouter:
        router = APIRouter(tags=["generation"])
        router.add_api_route(
            PATH,
            self.create,
            methods=["POST"],
            responses={200: {"model": Completion}},
            openapi_extra=describe_body(PATH, CompletionRequest),
        )
        return router

    async def create(self, request: Request) -> Response:
        """Completes one or several prompts; with `stream`, as server-sent events."""
        body = await read_body(request, CompletionRequest)
        served = self.generation.served
        served.require(body.model)
        prompts = await asyncio.to_thread(text_token_ids, body.prompts, served.tokenizer)
        answer_format = CompletionFormat(TokenTexts(served.tokenizer))
        return self.generation.respond(request, body, prompts, answer_format, self._default_max_tokens)

    def _default_max_tokens(self, num_prompt_tokens: int) -> int:
        return min(DEFAULT_MAX_TOKENS, self.generation.engine.room_for(num_prompt_tokens))


@dataclass(frozen=True, slots=True)
class CompletionFormat:
    texts: TokenTexts
    id_prefix: str = "cmpl"
    chunk_object: str = "text_completion"

    def delta(self, text: str, is_first: bool) -> str:  # noqa: ARG002  # all chunks look alike here
        return f'"text":{json.dumps(text)}'

    def logprobs(self, tokens: Sequence[TokenEvent], num_characters: int) -> tuple[CompletionLogprobs, int]:
        return completion_logprobs(tokens, self.texts, num_characters)

    def answer(self, plan: AnswerPlan, pieces: Sequence[Piece], usage: Usage) -> Completion:
        choices = [self._choice(plan, piece) for piece in pieces]
        return Completion(id=plan.id, created=plan.created, model=plan.model, choices=choices, usage=usage)

    def _choice(self, plan: AnswerPlan, piece: Piece) -> CompletionChoice:
        assert piece.finish_reason is not None
        return CompletionChoice(
            index=piece.index,
            text=piece.text,
            logprobs=self.logprobs(piece.tokens, 0)[0] if plan.with_logprobs else None,
            finish_reason=piece.finish_reason,
            stop_reason=piece.stop_reason,
            token_ids=piece.token_ids if plan.with_token_ids else None,
        )
