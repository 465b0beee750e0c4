"""POST /tokenize and POST /detokenize: text to token ids and back, as the model sees it. GET /tokenizer_info: what a
client that has no tokenizer of its own must know of this one."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from app.api.body import add_post, read_body
from app.api.chat.prompts import chat_prompt
from app.api.errors import invalid_request
from app.api.long_work import on_a_thread
from app.api.prompts import check_token_ids, encode
from app.api.schemas.chat import ChatRequest
from app.api.schemas.tokens import Detokenized, DetokenizeRequest, Piece, TokenizeRequest, TokenizerInfo, Tokens
from app.api.served import ServedModel

TOKENIZE, DETOKENIZE, INFO = "/tokenize", "/detokenize", "/tokenizer_info"
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True, slots=True)
class Tokenization:
    served: ServedModel

    def router(self) -> APIRouter:
        router = APIRouter(tags=["tokens"])
        add_post(router, TOKENIZE, self.tokenize, TokenizeRequest, answer=Tokens)
        add_post(router, DETOKENIZE, self.detokenize, DetokenizeRequest)
        router.add_api_route(INFO, self.info, methods=["GET"])
        return router

    async def tokenize(self, request: Request) -> Response:
        body = await read_body(request, TokenizeRequest)
        self.served.require(body.model)
        answer = await on_a_thread(request, self._answer, body)
        return Response(answer, media_type="application/json")

    async def detokenize(self, request: Request) -> Detokenized:
        body = await read_body(request, DetokenizeRequest)
        self.served.require(body.model)
        text = await on_a_thread(request, self._decode, body.tokens)
        return Detokenized(prompt=text, content=text)

    async def info(self) -> TokenizerInfo:
        """The special tokens by their roles, the chat template, sizes."""
        roles, tokenizer = self.served.tokenizer.special_tokens, self.served.tokenizer
        around = {tokenizer.name(token_id) for token_id in tokenizer.encode("")}
        template = self.served.chat_template
        known: dict[str, Any] = {
            **dict.fromkeys(ROLES),
            **roles,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "vocab_size": tokenizer.vocab_size,
            "model_max_length": self.served.max_model_len,
            "add_bos_token": roles.get("bos_token") in around,
            "add_eos_token": roles.get("eos_token") in around,
            "chat_template": template.source if template else None,
        }
        return TokenizerInfo.model_validate(known)

    def _answer(self, body: TokenizeRequest) -> str:
        """Written here: of a hundred thousand tokens, that would hold up the event loop."""
        return self._tokens(body).model_dump_json(exclude_none=True)

    def _tokens(self, body: TokenizeRequest) -> Tokens:
        token_ids = self._encode(body)
        name = self.served.tokenizer.name
        return Tokens(
            tokens=[self._piece(token_id) for token_id in token_ids] if body.with_pieces else token_ids,
            count=len(token_ids),
            max_model_len=self.served.max_model_len,
            token_strs=[name(token_id) for token_id in token_ids] if body.return_token_strs else None,
        )

    def _encode(self, body: TokenizeRequest) -> list[int]:
        adds = body.adds_special_tokens
        if body.messages is not None:
            return chat_prompt(self._chat(body), self.served, add_special_tokens=adds).token_ids
        texts = {"prompt": body.prompt, "content": body.content}
        param, text = next((param, text) for param, text in texts.items() if text is not None)
        return encode(self.served.tokenizer, text, param, add_special_tokens=adds)

    def _chat(self, body: TokenizeRequest) -> ChatRequest:
        try:
            return body.chat
        except ValidationError as error:
            raise invalid_request(error) from None

    def _piece(self, token_id: int) -> Piece:
        raw = self.served.tokenizer.token_bytes[token_id]
        try:
            return Piece(id=token_id, piece=raw.decode())
        except UnicodeDecodeError:
            return Piece(id=token_id, piece=list(raw))

    def _decode(self, token_ids: list[int]) -> str:
        check_token_ids("tokens", token_ids, self.served)
        return self.served.tokenizer.decode(token_ids)
