"""SGLang's own routes on the wire, as far as a training loop asks them: what they mean here is what they mean there."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, RootModel, model_validator

from app.api.schemas.completions import CompletionRequest, Prompt, each_of
from app.api.schemas.generation import MAX_CHOICES, MAX_N, MAX_STOP_TOKEN_IDS, Stop, Text, TokenIds
from app.api.schemas.sampling import LogitBias, TokenId
from app.api.schemas.wire import MAX_INT32, WireAnswer, WireRequest, expect, omitted_if_none, refusal

MAX_PATH = 4096

Texts = Annotated[
    Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)],
    expect(f"a text, or a list of 1 to {MAX_CHOICES} texts"),
]
InputIds = Annotated[
    TokenIds | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)],
    expect(f"a list of token ids, or a list of 1 to {MAX_CHOICES} such lists"),
]


class SamplingParameters(WireRequest):
    """What is left out has SGLang's default, whatever the model recommends: a rollout samples from what the model says.
    Its log-probabilities are those of temperature 1, before anything is left out."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {
            "custom_params": ({},),
            "no_stop_trim": (False,),
            "spaces_between_special_tokens": (True, False),
            "stream_interval": (1,),
        }
    )

    max_new_tokens: int | None = Field(None, ge=1, le=MAX_INT32)
    min_new_tokens: int | None = Field(None, ge=0, le=MAX_INT32)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=MAX_INT32)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: LogitBias | None = None
    stop: Stop | None = None
    stop_token_ids: list[TokenId] | None = Field(None, max_length=MAX_STOP_TOKEN_IDS)
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    n: int | None = Field(None, ge=1, le=MAX_N)
    sampling_seed: int | None = Field(None, ge=-(2**63), le=2**64 - 1)

    def as_completion(self) -> Mapping[str, Any]:
        """The fields of a completion that asks for the same."""
        own = self.model_dump(include=set(type(self).model_fields), exclude_none=True)
        names = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "sampling_seed": "seed"}
        given = {names.get(name, name): value for name, value in own.items()}
        start = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
        return start | given


class RolloutRequest(WireRequest):
    """POST /generate. One prompt has one object for an answer; a list, also of one, or `n`, a list of objects."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {
            "log_metrics": (True, False),
            "logprob_start_len": (-1,),  # no log-probabilities of the prompt
            "return_hidden_states": (False,),
            "stream": (False,),
        }
    )

    text: Texts | None = None
    input_ids: InputIds | None = None
    sampling_params: SamplingParameters | None = None
    return_logprob: bool | None = None
    top_logprobs_num: int | None = Field(None, ge=0, le=20)
    return_text_in_logprobs: bool | None = None

    @model_validator(mode="after")
    def _check_there_is_one_input(self) -> Self:
        if (self.text is None) == (self.input_ids is None):
            raise refusal("input_ids", "exactly one of text and input_ids is needed")
        if self.top_logprobs_num and not self.return_logprob:
            raise refusal("top_logprobs_num", "needs return_logprob to be true")
        if len(each_of(self._input)) * (self.sampling.n or 1) > MAX_CHOICES:
            raise refusal("sampling_params", f"n times prompts must be at most {MAX_CHOICES}")
        return self

    @property
    def sampling(self) -> SamplingParameters:
        return self.sampling_params or SamplingParameters.model_validate({})

    @property
    def is_batch(self) -> bool:
        return not isinstance(self._input, str) and not isinstance(self._input[0], int) or (self.sampling.n or 1) > 1

    @property
    def as_completion(self) -> CompletionRequest:
        """Raises ValidationError."""
        logprobs = (self.top_logprobs_num or 0) if self.return_logprob else None
        fields = {**self.sampling.as_completion(), "prompt": self._input, "logprobs": logprobs}
        return CompletionRequest.model_validate(fields)

    @property
    def _input(self) -> Prompt:
        prompt = self.text if self.input_ids is None else self.input_ids
        assert prompt is not None, "there is one of them"
        return prompt


TokenLogprob = tuple[float, int, str | None]  # the text: with return_text_in_logprobs


class RolloutFinish(WireAnswer):
    type: Literal["stop", "length", "abort"]
    matched: int | str | None = omitted_if_none()  # of a stop: the token, or the string
    length: int | None = omitted_if_none()  # of the two others: tokens


class RolloutMeta(WireAnswer):
    id: str
    finish_reason: RolloutFinish
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # nothing is shared between requests
    weight_version: str | None  # how often there have been new weights before those that it ran on; none: it never ran
    e2e_latency: float  # seconds
    output_token_logprobs: Sequence[TokenLogprob] | None = omitted_if_none()
    output_top_logprobs: Sequence[Sequence[TokenLogprob]] | None = omitted_if_none()


class Rollout(WireAnswer):
    text: str
    output_ids: list[int]  # with the token that ended it
    meta_info: RolloutMeta


class Rollouts(RootModel[Rollout | list[Rollout]], WireAnswer):
    """One for one prompt; a list for a list."""


class UpdateWeightsRequest(WireRequest):
    """POST /update_weights_from_disk."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {
            "flush_cache": (True, False),  # there is none that outlives its request
            "is_async": (False,),
            "keep_pause": (False,),
            "load_format": ("auto",),
            "recapture_cuda_graph": (False,),
            "token_step": (0,),
            "torch_empty_cache": (True, False),
        }
    )

    model_path: Annotated[str, Field(min_length=1, max_length=MAX_PATH)]
    abort_all_requests: bool | None = Field(
        None, description="true: ends what runs and waits, with an error. Default: what runs ends first."
    )


class WeightsUpdate(WireAnswer):
    success: bool = True
    message: str
    num_paused_requests: int = 0
