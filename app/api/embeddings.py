"""POST /v1/embeddings: the mean of the model's last hidden states over a text, of each text.

A model that was trained to go on with texts was not trained for this: the vectors are what it has, no more. They are
not of unit length unless that is asked for.
"""

import math
import struct
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.body import add_post, read_body
from app.api.errors import GenerationFailed, InvalidRequest, RequestCancelled
from app.api.long_work import on_a_thread
from app.api.prompts import check_prompts, text_token_ids
from app.api.schemas.embeddings import Embedding, EmbeddingRequest, Embeddings, EmbeddingUsage
from app.api.served import ServedModel
from app.api.stream import Submit, WholeAnswer
from app.api.submissions import names_of
from app.engine.engine import Engine
from app.engine.limits import room_for
from app.engine.request import FinishReason, RequestParams, Submission, TokenEvent

PATH = "/v1/embeddings"


@dataclass(frozen=True, slots=True)
class Pooling:
    served: ServedModel
    engine: Engine
    submit: Submit

    def router(self) -> APIRouter:
        router = APIRouter(tags=["generation"])
        add_post(router, PATH, self.create, EmbeddingRequest, answer=Embeddings)
        return router

    async def create(self, request: Request) -> Response:
        """Mean-pooled last hidden states: of each input, the mean over all of its tokens of what the model's output
        layer would read. Not of unit length, unless `normalize` is true."""
        body = await read_body(request, EmbeddingRequest)
        self.served.require(body.model)
        if body.dimensions not in (None, self.engine.info.hidden_size):
            raise InvalidRequest("dimensions", f"must be {self.engine.info.hidden_size}, the size of this model's")
        prompts = await on_a_thread(request, _token_ids, body.inputs, self.served)
        if body.truncate_prompt_tokens is not None:
            kept = room_for(self.engine.info, 0) if body.truncate_prompt_tokens == -1 else body.truncate_prompt_tokens
            prompts = [prompt[:kept] for prompt in prompts]
        params = RequestParams(max_tokens=0, pools=True, adapter=self.served.adapter_of(body.model))
        submissions = _submissions(prompts, params, request.state.request_id, request.state.owner)
        answer = EmbeddingAnswer(self.served.called(body.model), body, prompts)
        return WholeAnswer(self.submit, submissions, answer.render)


@dataclass(frozen=True, slots=True)
class EmbeddingAnswer:
    model: str
    body: EmbeddingRequest
    prompts: Sequence[Sequence[int]]

    def render(self, answers: Sequence[Sequence[TokenEvent]]) -> Embeddings:
        """Raises RequestCancelled or GenerationFailed."""
        num_tokens = sum(len(prompt) for prompt in self.prompts)
        return Embeddings(
            data=[self._embedding(index, events[-1]) for index, events in enumerate(answers)],
            model=self.model,
            usage=EmbeddingUsage(prompt_tokens=num_tokens, total_tokens=num_tokens),
        )

    def _embedding(self, index: int, last: TokenEvent) -> Embedding:
        if last.finish_reason is FinishReason.ABORT:
            raise RequestCancelled("The request was cancelled before its input was read.")
        if last.pooled is None:
            raise GenerationFailed("The deadline passed before the input was read.")
        if not all(map(math.isfinite, last.pooled)):
            raise GenerationFailed("The model's hidden states are not finite.")
        vector = unit(last.pooled) if self.body.normalize else last.pooled
        return Embedding(index=index, embedding=packed(vector) if self.body.encoding_format == "base64" else vector)


def unit(vector: Sequence[float]) -> Sequence[float]:
    """Of length 1; zero stays zero."""
    length = math.hypot(*vector)
    return [value / length for value in vector] if length else vector


def packed(vector: Sequence[float]) -> str:
    """float32, the lowest byte first, in base64, as OpenAI's clients unpack it."""
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _token_ids(inputs: Sequence[str | list[int]], served: ServedModel) -> list[list[int]]:
    """Raises InvalidRequest."""
    prompts = text_token_ids(inputs, served.tokenizer, param="input")
    check_prompts(prompts, served, "input")
    return prompts


def _submissions(
    prompts: Sequence[Sequence[int]], params: RequestParams, request_id: str, owner: str
) -> list[Submission]:
    names = names_of(request_id, len(prompts))
    return [
        Submission(name, tuple(prompt), params, request_id, owner) for name, prompt in zip(names, prompts, strict=True)
    ]
