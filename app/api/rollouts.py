"""What a training loop asks of SGLang, in SGLang's shapes: POST /generate, /update_weights_from_disk, /flush_cache.
(Its GET /health is this server's own.) There only where --weights-root is given.

/generate knows `text` or `input_ids`, one or a list; `sampling_params` of the schema, one for all; `return_logprob`,
`top_logprobs_num`, `return_text_in_logprobs`. Not: streams, log-probabilities of the prompt, hidden states, ids of the
client's own. An update is whole or has not been: whatever is wrong with the new weights, the old ones are served.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import PlainTextResponse, Response

from app.api.answers import AnswerPlan, join
from app.api.body import add_post, read_body
from app.api.errors import UPDATE_ROUTE, invalid_request
from app.api.generation import Generation
from app.api.logprobs import TokenTexts, finite
from app.api.long_work import on_a_thread
from app.api.prompts import text_token_ids
from app.api.schemas.completions import CompletionRequest
from app.api.schemas.rollouts import (
    Rollout,
    RolloutFinish,
    RolloutMeta,
    RolloutRequest,
    Rollouts,
    TokenLogprob,
    UpdateWeightsRequest,
    WeightsUpdate,
)
from app.engine.request import FinishReason, TokenEvent
from app.engine.swaps import SwapPending
from model.batch import Runner

GENERATE, FLUSH = "/generate", "/flush_cache"
DEFAULT_MAX_TOKENS = 128  # SGLang's


class NewWeights(Protocol):
    @property
    def runner(self) -> Runner: ...

    @property
    def digest(self) -> str: ...


LoadWeights = Callable[[str], NewWeights]  # from a path; takes its time; raises WeightsRefused


class RolloutRoutes:
    def __init__(self, generation: Generation, load: LoadWeights) -> None:
        self._generation = generation
        self._load = load
        self._updating = asyncio.Lock()

    def router(self) -> APIRouter:
        router = APIRouter()
        add_post(router, GENERATE, self.generate, RolloutRequest, answer=Rollouts, tags=["generation"])
        add_post(router, UPDATE_ROUTE, self.update, UpdateWeightsRequest, tags=["operation"])
        router.add_api_route(FLUSH, self.flush, methods=["POST"], tags=["operation"], response_class=PlainTextResponse)
        return router

    async def generate(self, request: Request) -> Response:
        """As SGLang's."""
        body = await read_body(request, RolloutRequest)
        served = self._generation.served
        completion = await on_a_thread(request, _completion, body)
        prompts = await on_a_thread(request, text_token_ids, completion.prompts, served.tokenizer)
        call = await self._generation.prepare(request, completion, prompts, "rollout", self._default_max_tokens)
        texts = TokenTexts(served.tokenizer, prints_special_tokens=completion.prints_special_tokens)
        return self._generation.whole(call, RolloutAnswer(call.plan, body, texts).render)

    def _default_max_tokens(self, num_prompt_tokens: int) -> int:
        return min(DEFAULT_MAX_TOKENS, self._generation.engine.room_for(num_prompt_tokens))

    async def update(self, request: Request) -> WeightsUpdate:
        """As SGLang's: answers once the new weights are served. A second update meanwhile is refused."""
        body = await read_body(request, UpdateWeightsRequest)
        if self._updating.locked():
            raise SwapPending
        async with self._updating:
            engine = self._generation.engine
            engine.raise_if_not_ready()
            new = await asyncio.to_thread(self._load, body.model_path)
            await engine.swaps.swap(new.runner, ends_open=bool(body.abort_all_requests))
            self._generation.served.weights.digest = new.digest
        return WeightsUpdate(message="The new weights are served.")

    async def flush(self) -> str:
        """As SGLang's. There is nothing to flush: a request's cache goes when the request does."""
        return "No cache outlives its request.\n"


def _completion(body: RolloutRequest) -> CompletionRequest:
    """Raises InvalidRequest."""
    try:
        return body.as_completion
    except ValidationError as error:
        raise invalid_request(error) from None


@dataclass(frozen=True, slots=True)
class RolloutAnswer:
    plan: AnswerPlan
    body: RolloutRequest
    texts: TokenTexts

    def render(self, candidates: Sequence[Sequence[TokenEvent]]) -> Rollouts:
        rollouts = [self._rollout(index, events) for index, events in enumerate(candidates)]
        return Rollouts(rollouts if self.body.is_batch else rollouts[0])

    def _rollout(self, index: int, events: Sequence[TokenEvent]) -> Rollout:
        piece, last = join(events, self.plan), events[-1]
        assert last.timings is not None
        times = last.timings
        meta = RolloutMeta(
            id=f"{self.plan.id}-{index}",
            finish_reason=_finish(last, len(piece.token_ids)),
            prompt_tokens=len(self.plan.prompt_of(index)),
            completion_tokens=len(piece.token_ids),
            weight_version=None if last.num_swaps is None else str(last.num_swaps),
            e2e_latency=times.queue_s + times.prefill_s + times.decode_s,
            output_token_logprobs=list(self._logprobs(piece.tokens)) if self.body.return_logprob else None,
            output_top_logprobs=[self._top(event) for event in piece.tokens] if self.body.top_logprobs_num else None,
        )
        return Rollout(text=piece.text, output_ids=piece.token_ids, meta_info=meta)

    def _logprobs(self, tokens: Sequence[TokenEvent]) -> Iterator[TokenLogprob]:
        for event in tokens:
            assert event.token_id is not None
            yield self._logprob(event.token_id, event.logprob)

    def _top(self, event: TokenEvent) -> Sequence[TokenLogprob]:
        return [self._logprob(token_id, logprob) for token_id, logprob in event.top_logprobs]

    def _logprob(self, token_id: int, logprob: float | None) -> TokenLogprob:
        return finite(logprob), token_id, self.texts.text(token_id) if self.body.return_text_in_logprobs else None


def _finish(last: TokenEvent, num_tokens: int) -> RolloutFinish:
    if last.finish_reason is FinishReason.STOP:
        return RolloutFinish(type="stop", matched=last.stop_reason)
    return RolloutFinish(type="abort" if last.finish_reason is FinishReason.ABORT else "length", length=num_tokens)
