"""Texts as tokens, on the wire: in vLLM's words and, where they differ, in llama.cpp's."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from app.api.schemas.chat import ChatRequest
from app.api.schemas.chat_messages import Messages
from app.api.schemas.generation import MAX_TOKEN_IDS, ModelName, Text
from app.api.schemas.sampling import TokenId
from app.api.schemas.tools import MAX_TOOLS, Tool
from app.api.schemas.wire import WireAnswer, WireRequest, refusal

CHAT_FIELDS = ("add_generation_prompt", "continue_final_message", "tools", "chat_template_kwargs")


class TokenizeRequest(WireRequest):
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"parse_special": (True,)})

    model: ModelName | None = None
    prompt: Text | None = None
    content: Text | None = Field(None, description="llama.cpp's name for prompt.")
    messages: Messages | None = None
    add_special_tokens: bool | None = Field(None, description="Default: true for text; false for messages.")
    add_special: bool | None = Field(None, description="llama.cpp's name for add_special_tokens.")
    add_generation_prompt: bool | None = Field(None, description="For messages, as in a chat, and so are …")
    continue_final_message: bool | None = None
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="… these.")
    return_token_strs: bool | None = Field(None, description="Adds token_strs, as the vocabulary spells the tokens.")
    with_pieces: bool | None = Field(
        None, description="As llama.cpp has it: tokens are objects of an id and a piece, which is a text or bytes."
    )

    @model_validator(mode="after")
    def _check_there_is_one_input(self) -> Self:
        if sum(given is not None for given in (self.prompt, self.content, self.messages)) != 1:
            raise refusal("prompt", "exactly one of prompt, content and messages is needed")
        for name in CHAT_FIELDS if self.messages is None else ():
            if getattr(self, name) is not None:
                raise refusal(name, "needs messages")
        if len({self.add_special_tokens, self.add_special} - {None}) > 1:
            raise refusal("add_special", "must equal add_special_tokens where both are given")
        return self

    @property
    def adds_special_tokens(self) -> bool:
        given = self.add_special_tokens if self.add_special is None else self.add_special
        return self.messages is None if given is None else given

    @property
    def chat(self) -> ChatRequest:
        """Of messages: the chat that they begin. Raises ValidationError, whose fields are those here."""
        fields = {name: getattr(self, name) for name in ("messages", *CHAT_FIELDS)}
        return ChatRequest.model_validate(fields)


class Piece(WireAnswer):
    id: int
    piece: str | list[int]  # bytes, of a token that is not whole characters


class Tokens(WireAnswer):
    tokens: list[int] | list[Piece]
    count: int
    max_model_len: int
    token_strs: list[str] | None = None


class DetokenizeRequest(WireRequest):
    model: ModelName | None = None
    tokens: list[TokenId] = Field(max_length=MAX_TOKEN_IDS, fail_fast=True)


class Detokenized(WireAnswer):
    prompt: str
    content: str  # the same, under llama.cpp's name


class RenderedPrompt(WireAnswer):
    object: Literal["prompt"] = "prompt"
    model: str
    prompt: str  # without the special tokens that the tokenizer adds
    token_ids: Sequence[int]
    count: int
    max_model_len: int


class TokenizerInfo(WireAnswer):
    """What tokenizer_config.json would say, with the model's further roles beside those named here."""

    model_config = ConfigDict(extra="allow")

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token: str | None
    add_bos_token: bool
    add_eos_token: bool
    clean_up_tokenization_spaces: bool = False
    chat_template: str | None
