"""The form of a text on the wire: OpenAI's response_format, and vLLM's structured_outputs."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from app.api.schemas.wire import WireRequest, expect, refusal
from app.engine.grammars.grammar import ANY_OBJECT, MAX_CHOICES, MAX_GRAMMAR, MAX_REGEX, Grammar, GrammarKind

JsonSchema = dict[str, Any]


class JsonSchemaFormat(WireRequest):
    """The schema is followed, `strict` or not."""

    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    description: Annotated[str, Field(max_length=MAX_GRAMMAR)] | None = None
    schema_: JsonSchema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(WireRequest):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    schema_: JsonSchema | None = Field(None, alias="schema", description="With json_object, as llama.cpp has it.")

    @model_validator(mode="after")
    def _check_what_goes_with_the_type(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise refusal("json_schema", "goes with the type json_schema, and that with it")
        if self.schema_ is not None and self.type != "json_object":
            raise refusal("schema", "goes with the type json_object")
        return self

    @property
    def as_grammar(self) -> Grammar | None:
        if self.type == "text":
            return None
        schema = self.schema_ if self.json_schema is None else self.json_schema.schema_
        return ANY_OBJECT if schema is None else Grammar.of_schema(schema)


class StructuredOutputs(WireRequest):
    """Exactly one of its fields."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {
            "disable_additional_properties": (False,),
            "disable_any_whitespace": (False,),
            "disable_fallback": (True, False),  # there is nothing to fall back to
        }
    )

    json_: Annotated[JsonSchema | str, expect("a JSON schema, or the text of one")] | None = Field(None, alias="json")
    regex: str | None = Field(None, min_length=1, max_length=MAX_REGEX, description="Of the whole text.")
    choice: list[str] | None = Field(None, min_length=1, max_length=MAX_CHOICES, description="The text is one of them.")
    grammar: str | None = Field(None, min_length=1, description="In llguidance's Lark form.")
    json_object: bool | None = Field(None, description="Any JSON object.")

    @model_validator(mode="after")
    def _check_that_there_is_one(self) -> Self:
        given = (self.json_, self.regex, self.choice, self.grammar, self.json_object or None)
        if sum(value is not None for value in given) != 1:
            raise refusal("json", "exactly one of json, regex, choice, grammar and json_object is needed")
        return self

    @property
    def as_grammar(self) -> Grammar:
        if isinstance(self.json_, str):
            return Grammar(GrammarKind.JSON_SCHEMA, self.json_)
        if self.json_ is not None:
            return Grammar.of_schema(self.json_)
        if self.choice is not None:
            return Grammar.of_choices(self.choice)
        if self.regex is not None:
            return Grammar(GrammarKind.REGEX, self.regex)
        return ANY_OBJECT if self.grammar is None else Grammar(GrammarKind.LARK, self.grammar)


def grammar_of(response_format: ResponseFormat | None, structured_outputs: StructuredOutputs | None) -> Grammar | None:
    """Of a request that has at most one of them."""
    if structured_outputs is not None:
        return structured_outputs.as_grammar
    return None if response_format is None else response_format.as_grammar
