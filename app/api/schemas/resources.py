"""The smaller resources on the wire: tokens, models, slots, health."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from app.api.schemas.chat import Messages
from app.api.schemas.generation import MAX_TOKEN_IDS, ModelName, Text, TokenId
from app.api.schemas.wire import WireAnswer, WireRequest, refusal


class TokenizeRequest(WireRequest):
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {"continue_final_message": (False,), "return_token_strs": (False,), "with_pieces": (False,)}
    )

    model: ModelName | None = None
    prompt: Text | None = None
    content: Text | None = None  # llama.cpp's name for prompt
    messages: Messages | None = None
    add_special_tokens: bool | None = Field(None, description="Default: true for text; false for messages.")
    add_generation_prompt: bool | None = Field(None, description="For messages. Default: true.")

    @model_validator(mode="after")
    def _check_there_is_one_input(self) -> Self:
        if sum(given is not None for given in (self.prompt, self.content, self.messages)) != 1:
            raise refusal("prompt", "exactly one of prompt, content and messages is needed")
        if self.messages is None and self.add_generation_prompt is not None:
            raise refusal("add_generation_prompt", "needs messages")
        return self


class Tokens(WireAnswer):
    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeRequest(WireRequest):
    model: ModelName | None = None
    tokens: list[TokenId] = Field(max_length=MAX_TOKEN_IDS, fail_fast=True)


class Detokenized(WireAnswer):
    prompt: str
    content: str  # the same, under llama.cpp's name


class Model(WireAnswer):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "slotwise"
    root: str
    max_model_len: int


class ModelList(WireAnswer):
    object: Literal["list"] = "list"
    data: list[Model]


class Blocks(WireAnswer):
    used: int
    total: int
    block_size: int  # token positions


class LiveSlot(WireAnswer):
    id: int
    request_id: str
    phase: str  # "prefill" or "decode"
    num_tokens: int
    num_blocks: int
    bytes: int
    age_s: float


class Slots(WireAnswer):
    num_slots: int
    blocks: Blocks
    slots: list[LiveSlot]


class Health(WireAnswer):
    status: Literal["ok"] = "ok"
