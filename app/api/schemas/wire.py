"""What all bodies have in common: strict types, null for absent, and no field ignored in silence.

A field that the server does not know is refused by name, unless it is null, or in `HARMLESS`, or has one of the values
that `NEUTRAL` says ask for nothing. These two tables are the whole list of what is accepted and has no effect.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_INT32 = 2**31 - 1

# What clients add for their own or a vendor's bookkeeping; no answer depends on it.
HARMLESS = frozenset(
    {
        "metadata",
        "parallel_tool_calls",  # where there are no tool calls
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "user",
    }
)

# What is not supported, and the values with which clients say that they do not want it.
NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "add_generation_prompt": (True,),
        "add_special_tokens": (False,),  # a chat's template writes its own
        "best_of": (1,),
        "chat_template_kwargs": ({},),
        "continue_final_message": (False,),
        "echo": (False,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "length_penalty": (1.0,),
        "modalities": (["text"],),
        "reasoning_effort": ("none",),
        "spaces_between_special_tokens": (True, False),  # only some slow tokenizers have such spaces
        "store": (False,),
        "suffix": ("",),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "use_beam_search": (False,),
        "verbosity": ("medium",),
    }
)


class WireRequest(BaseModel):
    """A body, or a part of one, as a client sends it."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)

    harmless: ClassVar[frozenset[str]] = frozenset()
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({})

    @model_validator(mode="after")
    def _refuse_unknown(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if value is None or name in self.harmless or value in self.neutral.get(name, ()):
                continue
            if name in self.neutral:
                raise refusal(name, "this value is not supported; leave the field out")
            raise refusal(name, "this field is not supported")
        return self


class WireAnswer(BaseModel):
    """A body, or a part of one, as the server sends it."""


def omitted_if_none() -> Any:
    """A field of an answer that is left out where there is nothing to say, null included."""
    return Field(None, exclude_if=lambda value: value is None)


def refusal(field: str, problem: str) -> PydanticCustomError:
    """An error about a field of the object at hand, for validators that see all of it."""
    return PydanticCustomError("refused", "{problem}", {"field": field, "problem": problem})


def expect(expected: str) -> WrapValidator:
    """Replaces whatever is wrong with a value of several possible types by one sentence on what would be right."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("expected", "expected {expected}", {"expected": expected}) from None

    return WrapValidator(validate)
