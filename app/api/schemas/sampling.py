"""The fields that decide which token comes next, the same on every generating route."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from app.api.schemas.wire import HARMLESS, MAX_INT32, NEUTRAL, WireRequest, expect

MAX_LOGIT_BIASES = 1024
MAX_LOGIT_BIAS = 100
MAX_BAD_WORDS = 64
MAX_BAD_WORD_LENGTH = 256
MAX_ALLOWED_TOKEN_IDS = 1024 * 1024
MAX_BREAKERS = 16
MAX_BREAKER_LENGTH = 64

TokenId = Annotated[int, Field(ge=0, le=MAX_INT32)]


def _number_of(name: object) -> object:
    """The token id that a name in a JSON object spells, digit by digit."""
    return int(name) if isinstance(name, str) and re.fullmatch("[0-9]{1,10}", name) else name


LogitBias = Annotated[
    Annotated[
        dict[
            Annotated[TokenId, BeforeValidator(_number_of)],
            Annotated[float, Field(ge=-MAX_LOGIT_BIAS, le=MAX_LOGIT_BIAS)],
        ],
        Field(max_length=MAX_LOGIT_BIASES),
    ],
    expect(f"a map of up to {MAX_LOGIT_BIASES} token ids to numbers from -{MAX_LOGIT_BIAS} to {MAX_LOGIT_BIAS}"),
]
Word = Annotated[str, Field(min_length=1, max_length=MAX_BAD_WORD_LENGTH, pattern=r"\S")]
Breaker = Annotated[str, Field(min_length=1, max_length=MAX_BREAKER_LENGTH)]


class SamplingRequest(WireRequest):
    """Null means: the default, which for temperature to repetition_penalty is the model's own, then OpenAI's."""

    harmless: ClassVar[frozenset[str]] = HARMLESS
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = NEUTRAL

    temperature: float | None = Field(None, ge=0, le=2, description="0 (or below 1e-5): the most likely token.")
    top_p: float | None = Field(None, gt=0, le=1, description="The most likely tokens that have this share together.")
    top_k: int | None = Field(None, ge=-1, le=MAX_INT32, description="So many most likely tokens. -1 or 0: no limit.")
    min_p: float | None = Field(
        None, ge=0, le=1, description="Tokens at least this times as likely as the most likely one."
    )
    typical_p: float | None = Field(
        None, gt=0, le=1, description="Locally typical sampling: the tokens nearest to the expected surprise. 1: off."
    )
    top_n_sigma: float | None = Field(
        None,
        ge=-1,
        le=100,
        description="Logits at most this many standard deviations below the largest. -1 or 0: off.",
    )
    xtc_probability: float | None = Field(
        None, ge=0, le=1, description="How often the most likely tokens are left out, all but the last of those …"
    )
    xtc_threshold: float | None = Field(None, ge=0, le=1, description="… with at least this share. Default: 0.1.")
    repetition_penalty: float | None = Field(None, ge=0.01, le=10, description="Over prompt and output. 1: off.")
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="Once for a token that the output has.")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="For each time that the output has it.")
    dry_multiplier: float | None = Field(
        None,
        ge=0,
        le=100,
        description="DRY: a token that prolongs a repetition of n tokens loses multiplier × base^(n - allowed length).",
    )
    dry_base: float | None = Field(None, ge=1, le=10, description="Default: 1.75.")
    dry_allowed_length: int | None = Field(None, ge=1, le=MAX_INT32, description="Default: 2.")
    dry_penalty_last_n: int | None = Field(
        None, ge=-1, le=MAX_INT32, description="How many tokens are searched. Default: -1, all. 0: DRY is off."
    )
    dry_sequence_breakers: list[Breaker] | None = Field(
        None,
        max_length=MAX_BREAKERS,
        description='No repetition goes on over a token with one of these. Default: newline, `:`, `"`, `*`.',
    )
    logit_bias: LogitBias | None = Field(
        None, description="What is added to the logits of these token ids, from -100 to 100."
    )
    bad_words: list[Word] | None = Field(
        None, max_length=MAX_BAD_WORDS, description="Never written, neither at the start of a text nor behind a space."
    )
    allowed_token_ids: list[TokenId] | None = Field(
        None, max_length=MAX_ALLOWED_TOKEN_IDS, fail_fast=True, description="No other token is chosen. Empty: off."
    )
    seed: int | None = Field(
        None, ge=-(2**63), le=2**64 - 1, description="The same seed gives the same answer. Choice i of n has seed + i."
    )
