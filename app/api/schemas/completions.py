"""POST /v1/completions on the wire."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self, cast

from pydantic import Field, model_validator

from app.api.schemas.generation import (
    MAX_CHOICES,
    MAX_N,
    GenerationRequest,
    OfPrompt,
    Text,
    Timings,
    TokenIds,
    Usage,
)
from app.api.schemas.wire import WireAnswer, expect, omitted_if_none, refusal

Prompt = Annotated[
    Text
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)]
    | TokenIds
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)],
    expect(f"a string, a list of 1 to {MAX_CHOICES} strings, a list of token ids, or a list of lists of token ids"),
]


def each_of(prompt: Prompt) -> Sequence[str | list[int]]:
    """One prompt, or several, as several. The first item tells which: there may be a million, and this is called on the
    event loop."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [prompt]
    return cast(list[str | list[int]], prompt)


class CompletionRequest(GenerationRequest):
    prompt: Prompt = Field(description="A string, a list of strings, token ids, or a list of lists of token ids.")
    add_special_tokens: bool | None = Field(
        None, description="false: without the special tokens that the model's texts begin with. Token ids have none."
    )
    echo: bool | None = Field(None, description="The prompt comes first, in the text and in the log-probabilities.")
    logprobs: int | None = Field(
        None, ge=0, le=20, description="Log-probabilities of the tokens and of this many most likely ones."
    )
    best_of: int | None = Field(
        None,
        ge=1,
        le=MAX_N,
        description="So many are generated, and the n with the highest mean log-probability returned. Not streamed.",
    )

    @model_validator(mode="after")
    def _check_number_of_choices(self) -> Self:
        n = self.n or 1
        if self.best_of is not None and self.best_of < n:
            raise refusal("best_of", "must be at least n")
        if self.stream and self.ranks:
            raise refusal("best_of", "cannot be streamed; leave it or stream out")
        if len(self.prompts) * self.num_candidates > MAX_CHOICES:
            raise refusal("n" if self.best_of is None else "best_of", f"times prompts must be at most {MAX_CHOICES}")
        return self

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        return each_of(self.prompt)

    @property
    def num_candidates(self) -> int:
        return self.best_of or self.n or 1

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def num_prompt_logprobs(self) -> int | None:
        wanted = [self.prompt_logprobs, self.logprobs if self.echo else None]
        return max((number for number in wanted if number is not None), default=None)


class CompletionLogprobs(WireAnswer):
    """One entry for each token: with echo those of the prompt first, at the end the one that ended the text."""

    tokens: list[str]
    token_logprobs: list[float | None]  # none for the first token of a prompt
    top_logprobs: list[dict[str, float] | None]  # likewise; the chosen token is always among them
    text_offset: list[int]  # where in the text the token's first character is


class CompletionChoice(OfPrompt):
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
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage
    timings: Timings | None = omitted_if_none()
