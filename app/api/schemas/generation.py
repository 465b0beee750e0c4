"""What completions and chat have in common on the wire: the fields of their requests, and what answers say of them."""

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from app.api.schemas.sampling import SamplingRequest, TokenId
from app.api.schemas.structured import ResponseFormat, StructuredOutputs, grammar_of
from app.api.schemas.wire import MAX_INT32, WireAnswer, WireRequest, expect, omitted_if_none, refusal
from app.engine.grammars.grammar import Grammar

MAX_CHOICES = 1024  # prompts × n of one request
MAX_N = 128
MAX_TEXT = 4 * 1024 * 1024  # characters; far more than any context holds
MAX_TOKEN_IDS = 1024 * 1024
MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_STOP_TOKEN_IDS = 64
MAX_TIMEOUT_S = 86_400

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


class GenerationRequest(SamplingRequest):
    """Null means: the default."""

    model: ModelName | None = Field(None, description="Any name that GET /v1/models lists; none: the model served.")
    max_tokens: int | None = Field(None, ge=0, le=MAX_INT32, description="0: the prompt is only read.")
    max_completion_tokens: int | None = Field(None, ge=0, le=MAX_INT32, description="The same as max_tokens.")
    min_tokens: int | None = Field(None, ge=0, le=MAX_INT32, description="Until then nothing ends the text.")
    stop: Stop | None = Field(None, description="The text ends before the first of these.")
    include_stop_str_in_output: bool | None = Field(None, description="The text ends behind it instead.")
    stop_token_ids: list[TokenId] | None = Field(
        None, max_length=MAX_STOP_TOKEN_IDS, description="These end the text, as the model's own end of text does."
    )
    ignore_eos: bool | None = Field(None, description="The model's own end of text ends nothing.")
    skip_special_tokens: bool | None = Field(None, description="false: special tokens are printed.")
    response_format: ResponseFormat | None = Field(
        None,
        description="`text`, `json_object`, or `json_schema`: the text is such, from its first character to its last.",
    )
    structured_outputs: StructuredOutputs | None = Field(
        None, description="vLLM's: one of `json`, `regex`, `choice`, `grammar` (llguidance's Lark form), `json_object`."
    )
    n: int | None = Field(None, ge=1, le=MAX_N, description="Choices for each prompt.")
    stream: bool | None = Field(None, description="Server-sent events, as the tokens come.")
    stream_options: StreamOptions | None = Field(
        None, description="`include_usage`; with it `continuous_usage_stats`: the usage so far, in every chunk."
    )
    prompt_logprobs: int | None = Field(
        None, ge=0, le=20, description="Log-probabilities of the prompt's tokens and of this many most likely ones."
    )
    return_token_ids: bool | None = Field(None, description="Adds token_ids and prompt_token_ids.")
    timings: bool | None = Field(None, description="false: leaves the timings out of the answer.")
    priority: int | None = Field(None, ge=-100, le=100, description="The lower goes first, though none for ever.")
    timeout: float | None = Field(
        None, gt=0, le=MAX_TIMEOUT_S, description="Seconds from arrival; then what there is is the answer."
    )

    @model_validator(mode="after")
    def _check_fields_against_each_other(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise refusal("stream_options", "needs stream to be true")
        if len({self.max_tokens, self.max_completion_tokens} - {None}) > 1:
            raise refusal("max_completion_tokens", "must equal max_tokens where both are given")
        if self.structured_outputs is not None and self.response_format and self.response_format.type != "text":
            raise refusal("structured_outputs", "cannot be combined with response_format")
        return self

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def num_candidates(self) -> int:
        """So many are generated for each prompt; `n` of them are the answer."""
        return self.n or 1

    @property
    def ranks(self) -> bool:
        """The answer is the best of more candidates."""
        return self.num_candidates > (self.n or 1)

    @property
    def grammar(self) -> Grammar | None:
        return grammar_of(self.response_format, self.structured_outputs)

    @property
    def prints_special_tokens(self) -> bool:
        return self.skip_special_tokens is False

    @property
    def num_prompt_logprobs(self) -> int | None:
        """As num_logprobs, of the prompt: what the engine is asked for."""
        return self.prompt_logprobs

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


class Timings(WireAnswer):
    """Of an answer with several choices: tokens, blocks and bytes of all together; the longest of their times."""

    queue_ms: float
    prompt_n: int
    prompt_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float  # from the first token to the last …
    predicted_per_second: float  # … and those behind each choice's first, in that time
    kv_blocks: int  # the most that were held
    kv_bytes: int


class PromptLogprob(WireAnswer):
    logprob: float
    rank: int | None  # from 1; none for a token that is not among the most likely asked for
    decoded_token: str


PromptLogprobs = list[dict[int, PromptLogprob] | None]  # one entry for each token of the prompt; none for its first


class OfPrompt(WireAnswer):
    """What an answer tells of its prompt, where it is asked to."""

    prompt_token_ids: list[int] | None = omitted_if_none()
    prompt_logprobs: PromptLogprobs | None = omitted_if_none()
