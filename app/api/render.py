"""POST /v1/chat/completions/render and POST /v1/completions/render: the prompt that a request becomes, as text and as
token ids, and no answer. Made by what makes it for the answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request

from app.api.body import add_post, read_body
from app.api.chat.prompts import chat_prompt
from app.api.long_work import on_a_thread
from app.api.prompts import check_prompts, text_token_ids
from app.api.schemas.chat import ChatRequest
from app.api.schemas.completions import CompletionRequest
from app.api.schemas.tokens import RenderedPrompt
from app.api.served import ServedModel

CHAT, COMPLETIONS = "/v1/chat/completions/render", "/v1/completions/render"


@dataclass(frozen=True, slots=True)
class Rendering:
    served: ServedModel

    def router(self) -> APIRouter:
        router = APIRouter(tags=["tokens"])
        add_post(router, CHAT, self.chat, ChatRequest)
        add_post(router, COMPLETIONS, self.completions, CompletionRequest)
        return router

    async def chat(self, request: Request) -> RenderedPrompt:
        """Takes what POST /v1/chat/completions takes."""
        body = await read_body(request, ChatRequest)
        self.served.require(body.model)
        prompt = await on_a_thread(request, chat_prompt, body, self.served)
        return self._rendered(body.model, prompt.text, prompt.token_ids)

    async def completions(self, request: Request) -> list[RenderedPrompt]:
        """Takes what POST /v1/completions takes; gives one prompt for each of its own."""
        body = await read_body(request, CompletionRequest)
        self.served.require(body.model)
        return await on_a_thread(request, self._prompts, body)

    def _prompts(self, body: CompletionRequest) -> list[RenderedPrompt]:
        decode = self.served.tokenizer.decode
        prompts = text_token_ids(body.prompts, self.served.tokenizer, body.add_special_tokens)
        check_prompts(prompts, self.served)
        texts = [given if isinstance(given, str) else decode(given) for given in body.prompts]
        return [self._rendered(body.model, text, token_ids) for text, token_ids in zip(texts, prompts, strict=True)]

    def _rendered(self, model: str | None, text: str, token_ids: Sequence[int]) -> RenderedPrompt:
        return RenderedPrompt(
            model=self.served.called(model),
            prompt=text,
            token_ids=token_ids,
            count=len(token_ids),
            max_model_len=self.served.max_model_len,
        )
