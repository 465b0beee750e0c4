"""POST /v1/completions: a text, or several, and how each goes on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.answers import AnswerPlan, join, num_tokens, of_prompt, prompt_targets, timings, usage
from app.api.body import add_post, read_body
from app.api.chunks import ChunkWriter
from app.api.echo import Echo, echo
from app.api.generation import Generation
from app.api.logprobs import Offsets, TokenTexts, completion_logprobs, scored, scored_prompt
from app.api.long_work import on_a_thread
from app.api.prompts import text_token_ids
from app.api.ranking import best
from app.api.schemas.completions import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from app.engine.request import FinishReason, TokenEvent

PATH = "/v1/completions"
DEFAULT_MAX_TOKENS = 16  # OpenAI's


@dataclass(frozen=True, slots=True)
class Completions:
    generation: Generation

    def router(self) -> APIRouter:
        router = APIRouter(tags=["generation"])
        add_post(router, PATH, self.create, CompletionRequest, answer=Completion)
        return router

    async def create(self, request: Request) -> Response:
        """Completes one or several prompts; with `stream`, as server-sent events."""
        body = await read_body(request, CompletionRequest)
        served = self.generation.served
        served.require(body.model)
        prompts = await on_a_thread(request, text_token_ids, body.prompts, served.tokenizer, body.add_special_tokens)
        call = await self.generation.prepare(request, body, prompts, "cmpl", self._default_max_tokens)
        texts = TokenTexts(served.tokenizer, prints_special_tokens=body.prints_special_tokens)
        echoes = await on_a_thread(request, _echoes, body, call.plan, texts) if body.echo else ()
        voices = [CompletionVoice(call.plan, texts, index, echoes) for index in range(len(call.submissions))]
        if body.stream:
            return self.generation.stream(call, ChunkWriter(call.plan, "text_completion", voices, texts))
        return self.generation.whole(call, CompletionAnswer(call.plan, texts, voices).render)

    def _default_max_tokens(self, num_prompt_tokens: int) -> int:
        return min(DEFAULT_MAX_TOKENS, self.generation.engine.room_for(num_prompt_tokens))


def _echoes(body: CompletionRequest, plan: AnswerPlan, texts: TokenTexts) -> Sequence[Echo]:
    return [echo(prompt, token_ids, texts) for prompt, token_ids in zip(body.prompts, plan.prompts, strict=True)]


class CompletionVoice:
    """One candidate, of a stream or of a whole answer: a `Voice`. `echoes`: none, or one for each prompt."""

    def __init__(self, plan: AnswerPlan, texts: TokenTexts, index: int, echoes: Sequence[Echo]) -> None:
        self._num_top = plan.num_logprobs or 0
        self._prompt = plan.prompt_of(index)
        self._texts = texts
        self._echo = echoes[index // plan.num_candidates] if echoes else None
        self._offsets = Offsets(len(self._echo.text) if self._echo else 0)
        self._unsaid = self._echo.text if self._echo else ""
        self._unscored = self._echo

    def delta(self, text: str, is_last: bool) -> str:
        return f'"text":{json.dumps(self.text(text))}' if text or is_last else ""

    def text(self, text: str) -> str:
        """The next text of the choice, behind the echo if it is the first."""
        said, self._unsaid = self._unsaid + text, ""
        return said

    def logprobs(self, events: Sequence[TokenEvent]) -> CompletionLogprobs:
        tokens = scored(events)
        offsets = [self._offsets.next(self._texts.printed(token.token_id)) for token in tokens]
        if self._unscored:
            prompt = scored_prompt(self._prompt, prompt_targets(events), self._num_top)
            tokens, offsets = [*prompt, *tokens], [*self._unscored.text_offset[: len(prompt)], *offsets]
            self._unscored = None
        return completion_logprobs(tokens, offsets, self._texts)

    def finish_reason(self, reason: FinishReason) -> str:
        return reason


@dataclass(frozen=True, slots=True)
class CompletionAnswer:
    """The whole answer, from one voice for each candidate."""

    plan: AnswerPlan
    texts: TokenTexts
    voices: Sequence[CompletionVoice]

    def render(self, candidates: Sequence[Sequence[TokenEvent]]) -> Completion:
        plan, num_completion_tokens = self.plan, sum(map(num_tokens, candidates))
        starts = range(0, len(candidates), plan.num_candidates)
        groups = [candidates[start : start + plan.num_candidates] for start in starts]
        chosen = [events for group in groups for events in best(group, plan.num_choices)]
        return Completion(
            id=plan.id,
            created=plan.created,
            model=plan.model,
            system_fingerprint=plan.fingerprint,
            choices=[self._choice(index, events) for index, events in enumerate(chosen)],
            usage=usage(plan, num_completion_tokens),
            timings=timings(plan, [events[-1].timings for events in candidates], num_completion_tokens),
        )

    def _choice(self, index: int, events: Sequence[TokenEvent]) -> CompletionChoice:
        plan, piece = self.plan, join(events, self.plan)
        assert piece.finish_reason is not None
        voice = self.voices[piece.index]
        return CompletionChoice(
            index=index,
            text=voice.text(piece.text),
            logprobs=None if plan.num_logprobs is None else voice.logprobs(events),
            finish_reason=piece.finish_reason,
            stop_reason=piece.stop_reason,
            token_ids=piece.token_ids if plan.with_token_ids else None,
            **of_prompt(plan, events, self.texts).model_dump(),
        )
