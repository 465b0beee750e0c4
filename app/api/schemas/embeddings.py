"""POST /v1/embeddings on the wire."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from app.api.schemas.completions import Prompt, each_of
from app.api.schemas.generation import ModelName
from app.api.schemas.wire import HARMLESS, MAX_INT32, WireAnswer, WireRequest, expect

Truncation = Annotated[
    Literal[-1] | Annotated[int, Field(ge=1, le=MAX_INT32)], expect("-1 or the number of tokens to keep")
]


class EmbeddingRequest(WireRequest):
    harmless: ClassVar[frozenset[str]] = HARMLESS

    model: ModelName | None = Field(None, description="Any name that GET /v1/models lists; none: the model served.")
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="base64: of float32, the lowest byte first. Default: float."
    )
    dimensions: int | None = Field(None, ge=1, le=MAX_INT32, description="The model's own number, and no other.")
    truncate_prompt_tokens: Truncation | None = Field(
        None, description="Of longer inputs, only so many of their first tokens; -1: as many as the model reads."
    )
    normalize: bool | None = Field(None, description="true: divided by its length. Default: as the model has it.")

    @property
    def inputs(self) -> Sequence[str | list[int]]:
        return each_of(self.input)


class Embedding(WireAnswer):
    """The mean of the model's last hidden states over all tokens of the input, behind its final norm: what the model
    has, for it was not trained to embed."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: Sequence[float] | str


class EmbeddingUsage(WireAnswer):
    prompt_tokens: int
    total_tokens: int


class Embeddings(WireAnswer):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
