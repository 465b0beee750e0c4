"""POST /v1/chat/completions on the wire."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from app.api.schemas.generation import GenerationRequest, Text, Usage
from app.api.schemas.wire import WireAnswer, WireRequest, expect, refusal

MAX_MESSAGES = 4096
MAX_PARTS = 1024


class TextPart(WireRequest):
    harmless: ClassVar[frozenset[str]] = frozenset({"cache_control"})

    type: Literal["text"]
    text: Text


Content = Annotated[
    Text | Annotated[list[TextPart], Field(max_length=MAX_PARTS)],
    expect('a string, or a list of parts {"type": "text", "text": …}'),
]


class ChatMessage(WireRequest):
    """A message as clients write it, or as they got it from an answer and send it back."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {"annotations": ([],), "reasoning": ("",), "reasoning_content": ("",), "refusal": ("",), "tool_calls": ([],)}
    )

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = None

    def for_template(self) -> dict[str, str]:
        """Text parts become lines, and OpenAI's newer word for the system role becomes the one that templates know."""
        content = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        message = {"role": "system" if self.role == "developer" else self.role, "content": content}
        return message if self.name is None else {**message, "name": self.name}


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class ChatRequest(GenerationRequest):
    messages: Messages
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _check_top_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise refusal("top_logprobs", "needs logprobs to be true")
        return self

    @property
    def num_logprobs(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None


class TokenLogprob(WireAnswer):
    token: str
    logprob: float
    bytes: Sequence[int]


class ChosenTokenLogprob(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(WireAnswer):
    """One entry for each token, the one that ended the text included."""

    content: list[ChosenTokenLogprob]
    refusal: None = None


class AssistantMessage(WireAnswer):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(WireAnswer):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: int | str | None
    token_ids: list[int] | None  # where return_token_ids asks for them


class ChatCompletion(WireAnswer):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
