"""POST /v1/completions on the wire."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from app.api.schemas.generation import MAX_CHOICES, GenerationRequest, Text, TokenIds, Usage
from app.api.schemas.wire import WireAnswer, expect, refusal

Prompt = Annotated[
    Text
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)]
    | TokenIds
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)],
    expect(f"a string, a list of 1 to {MAX_CHOICES} strings, a list of token ids, or a list of lists of token ids"),
]


class CompletionRequest(GenerationRequest):
    prompt: Prompt
    logprobs: int | None = Field(None, ge=0, le=20, description="Of the chosen token and of this many most likely.")

    @model_validator(mode="after")
    def _check_number_of_choices(self) -> Self:
        if len(self.prompts) * (self.n or 1) > MAX_CHOICES:
            raise refusal("n", f"prompts × n must be at most {MAX_CHOICES}")
        return self

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        token_ids = [item for item in self.prompt if isinstance(item, int)]
        return [token_ids] if token_ids else [item for item in self.prompt if not isinstance(item, int)]

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs


class CompletionLogprobs(WireAnswer):
    """One entry for each token, the one that ended the text included."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]  # the chosen token is always among them
    text_offset: list[int]  # where in the generated text the token's first character is


class CompletionChoice(WireAnswer):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str
    stop_reason: int | str | None
    token_ids: list[int] | None  # where return_token_ids asks for them


class Completion(WireAnswer):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
