"""POST /tokenize and POST /detokenize: text to token ids and back, as the model sees it."""

import asyncio
from dataclasses import dataclass

from fastapi import APIRouter, Request

from app.api.body import describe_body, read_body
from app.api.errors import InvalidRequest
from app.api.prompts import chat_token_ids, encode
from app.api.schemas.resources import Detokenized, DetokenizeRequest, TokenizeRequest, Tokens
from app.api.served import ServedModel

TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"


@dataclass(frozen=True, slots=True)
class Tokenization:
    served: ServedModel

    def router(self) -> APIRouter:
        router = APIRouter(tags=["tokens"])
        router.add_api_route(
            TOKENIZE, self.tokenize, methods=["POST"], openapi_extra=describe_body(TOKENIZE, TokenizeRequest)
        )
        router.add_api_route(
            DETOKENIZE, self.detokenize, methods=["POST"], openapi_extra=describe_body(DETOKENIZE, DetokenizeRequest)
        )
        return router

    async def tokenize(self, request: Request) -> Tokens:
        body = await read_body(request, TokenizeRequest)
        self.served.require(body.model)
        tokens = await asyncio.to_thread(self._encode, body)
        return Tokens(tokens=tokens, count=len(tokens), max_model_len=self.served.max_model_len)

    async def detokenize(self, request: Request) -> Detokenized:
        body = await read_body(request, DetokenizeRequest)
        self.served.require(body.model)
        text = await asyncio.to_thread(self._decode, body.tokens)
        return Detokenized(prompt=text, content=text)

    def _encode(self, body: TokenizeRequest) -> list[int]:
        if body.messages is not None:
            return chat_token_ids(
                body.messages,
                self.served,
                add_generation_prompt=body.add_generation_prompt is not False,
                add_special_tokens=bool(body.add_special_tokens),
            )
        param, text = ("content", body.content) if body.prompt is None else ("prompt", body.prompt)
        assert text is not None
        return encode(self.served.tokenizer, text, param, add_special_tokens=body.add_special_tokens is not False)

    def _decode(self, token_ids: list[int]) -> str:
        if any(token_id >= self.served.tokenizer.vocab_size for token_id in token_ids):
            raise InvalidRequest("tokens", f"must be below {self.served.tokenizer.vocab_size}, the vocabulary's size")
        return self.served.tokenizer.decode(token_ids)
