"""What completions and chat have in common on the wire: the fields that steer generation, and the usage."""

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from app.api.schemas.wire import HARMLESS, MAX_INT32, NEUTRAL, WireAnswer, WireRequest, expect, refusal

MAX_CHOICES = 1024  # prompts × n of one request
MAX_N = 128
MAX_TEXT = 4 * 1024 * 1024  # characters; far more than any context holds
MAX_TOKEN_IDS = 1024 * 1024
MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_STOP_TOKEN_IDS = 64

TokenId = Annotated[int, Field(ge=0, le=MAX_INT32)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_TOKEN_IDS, fail_fast=True)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Stop = Annotated[
    StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)],
    expect(f"a string of 1 to {MAX_STOP_LENGTH} characters, or a list of up to {MAX_STOPS} of them"),
]


class StreamOptions(WireRequest):
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"include_obfuscation": (False,)})

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None  # with include_usage: the usage so far in every chunk


class GenerationRequest(WireRequest):
    """Null means: the default, which for temperature to repetition_penalty is the model's own, then OpenAI's."""

    harmless: ClassVar[frozenset[str]] = HARMLESS
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = NEUTRAL

    model: ModelName | None = Field(None, description="Any name that GET /v1/models lists; none: the model served.")
    max_tokens: int | None = Field(None, ge=1, le=MAX_INT32)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_INT32, description="The same as max_tokens.")
    min_tokens: int | None = Field(None, ge=0, le=MAX_INT32)
    temperature: float | None = Field(None, ge=0, le=2, description="0 (or below 1e-5): the most likely token.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=MAX_INT32, description="-1 or 0: no limit.")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10, description="1: off.")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(
        None, ge=-(2**63), le=2**64 - 1, description="The same seed gives the same answer. Choice i of n has seed + i."
    )
    stop: Stop | None = None
    stop_token_ids: list[TokenId] | None = Field(None, max_length=MAX_STOP_TOKEN_IDS)
    ignore_eos: bool | None = None
    n: int | None = Field(None, ge=1, le=MAX_N)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = Field(None, description="Adds choices[].token_ids.")

    @model_validator(mode="after")
    def _check_fields_against_each_other(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise refusal("stream_options", "needs stream to be true")
        if len({self.max_tokens, self.max_completion_tokens} - {None}) > 1:
            raise refusal("max_completion_tokens", "must equal max_tokens where both are given")
        return self

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    @abstractmethod
    def num_logprobs(self) -> int | None:
        """None: none wanted; 0: those of the chosen tokens; k: also those of the k most likely."""


class PromptTokensDetails(WireAnswer):
    cached_tokens: int = 0  # nothing is shared between requests


class Usage(WireAnswer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
