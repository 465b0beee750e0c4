"""POST /v1/chat/completions: messages, and the assistant's next."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.answers import AnswerPlan, join, num_tokens, of_prompt, timings, usage
from app.api.body import add_post, read_body
from app.api.chat.calls import ChatCalls
from app.api.chat.voice import ChatVoice
from app.api.chunks import ChunkWriter
from app.api.generation import Generation
from app.api.logprobs import TokenTexts
from app.api.schemas.chat import ChatChoice, ChatCompletion, ChatRequest
from app.engine.request import TokenEvent

PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Chat:
    generation: Generation

    def router(self) -> APIRouter:
        router = APIRouter(tags=["generation"])
        add_post(router, PATH, self.create, ChatRequest, answer=ChatCompletion)
        return router

    async def create(self, request: Request) -> Response:
        """Answers a conversation; with `stream`, as server-sent events."""
        body = await read_body(request, ChatRequest)
        call = await ChatCalls(self.generation).prepare(request, body)
        texts = TokenTexts(self.generation.served.tokenizer)
        voices = [ChatVoice(call.new_parser(), texts) for _ in call.submissions]
        if body.stream:
            writer = ChunkWriter(call.plan, "chat.completion.chunk", voices, texts, prompt_is_in_choice=False)
            return self.generation.stream(call, writer)
        return self.generation.whole(call, ChatAnswer(call.plan, texts, voices).render)


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """The whole answer, from one voice for each choice."""

    plan: AnswerPlan
    texts: TokenTexts
    voices: Sequence[ChatVoice]

    def render(self, choices: Sequence[Sequence[TokenEvent]]) -> ChatCompletion:
        plan, num_completion_tokens = self.plan, sum(map(num_tokens, choices))
        return ChatCompletion(
            id=plan.id,
            created=plan.created,
            model=plan.model,
            system_fingerprint=plan.fingerprint,
            choices=[self._choice(events) for events in choices],
            usage=usage(plan, num_completion_tokens),
            timings=timings(plan, [events[-1].timings for events in choices], num_completion_tokens),
            **of_prompt(plan, choices[0], self.texts).model_dump(),
        )

    def _choice(self, events: Sequence[TokenEvent]) -> ChatChoice:
        plan, piece = self.plan, join(events, self.plan)
        assert piece.finish_reason is not None
        voice = self.voices[piece.index]
        return ChatChoice(
            index=piece.index,
            message=voice.message(piece.text),
            logprobs=None if plan.num_logprobs is None else voice.logprobs(events),
            finish_reason=voice.finish_reason(piece.finish_reason),
            stop_reason=piece.stop_reason,
            token_ids=piece.token_ids if plan.with_token_ids else None,
        )
