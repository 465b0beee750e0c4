"""POST /v1/chat/completions on the wire."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from app.api.schemas.chat_messages import Messages
from app.api.schemas.generation import GenerationRequest, OfPrompt, Timings, Usage
from app.api.schemas.tools import MAX_TOOLS, NamedTool, Tool, ToolCall, ToolChoice
from app.api.schemas.wire import WireAnswer, omitted_if_none, refusal

MAX_VARIABLES = 32
MAX_VARIABLES_LENGTH = 65_536  # characters of JSON, all together
THINKING_SWITCHES = ("enable_thinking", "open_thinking", "thinking")  # what templates call it
OWN_FIELDS = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message"})  # of the request

VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatRequest(GenerationRequest):
    messages: Messages = Field(description="The conversation; the answer is what comes next.")
    logprobs: bool | None = Field(None, description="Log-probabilities of the answer's tokens …")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="… and of so many most likely ones.")
    tools: list[Tool] | None = Field(
        None, max_length=MAX_TOOLS, description="Functions the model may ask to be called."
    )
    tool_choice: ToolChoice | None = Field(None, description="Default: auto where there are tools.")
    parallel_tool_calls: bool | None = Field(None, description="false: one call at most.")
    chat_template_kwargs: dict[VariableName, Any] | None = Field(
        None, max_length=MAX_VARIABLES, description="Variables of the model's chat template."
    )
    reasoning_effort: Effort | None = Field(None, description="none: no reasoning. For models that can be told.")
    open_thinking: bool | None = Field(None, description="MiniMind's: reasoning, or none.")
    enable_thinking: bool | None = Field(None, description="Qwen's word for the same.")
    add_generation_prompt: bool | None = Field(None, description="false: the prompt ends with the last message.")
    continue_final_message: bool | None = Field(None, description="The answer goes on where the last message ends.")

    @model_validator(mode="after")
    def _check_chat_fields(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise refusal("top_logprobs", "needs logprobs to be true")
        if self.continue_final_message and self.add_generation_prompt:
            raise refusal("continue_final_message", "needs add_generation_prompt not to be true")
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise refusal("continue_final_message", "needs the last message to be the assistant's")
        return self

    @model_validator(mode="after")
    def _check_tools(self) -> Self:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise refusal("tools", "each function needs a name of its own")
        if not names and self.tool_choice not in (None, "none", "auto"):
            raise refusal("tool_choice", "needs tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise refusal("tool_choice", "must name one of the tools")
        return self

    @model_validator(mode="after")
    def _check_variables(self) -> Self:
        variables = self.chat_template_kwargs or {}
        for name in OWN_FIELDS & variables.keys():
            raise refusal(f"chat_template_kwargs.{name}", "is a field of the request, not a variable to be set")
        for name in variables.keys() & set(THINKING_SWITCHES):
            if not isinstance(variables[name], bool | None):
                raise refusal(f"chat_template_kwargs.{name}", "must be true or false")
        if len(set(self.told_of_thinking.values())) > 1:
            raise refusal(list(self.told_of_thinking)[-1], "contradicts another field that says whether to reason")
        if len(json.dumps(variables)) > MAX_VARIABLES_LENGTH:
            raise refusal("chat_template_kwargs", f"must be at most {MAX_VARIABLES_LENGTH} characters of JSON")
        return self

    @property
    def num_logprobs(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None

    @property
    def offered_tools(self) -> Sequence[Tool]:
        """Those that the model is told of: none where it may not call any."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def demanded_tools(self) -> Sequence[Tool]:
        """One of these must be called; empty: none need be."""
        if isinstance(self.tool_choice, NamedTool):
            name = self.tool_choice.function.name
            return [tool for tool in self.tools or () if tool.function.name == name]
        return self.offered_tools if self.tool_choice == "required" else []

    @property
    def thinking(self) -> bool | None:
        """Whether the model is to reason first. None: as the template has it."""
        return next(iter(self.told_of_thinking.values()), None)

    @property
    def told_of_thinking(self) -> Mapping[str, bool]:
        """By the fields that say so."""
        variables = self.chat_template_kwargs or {}
        switches = {name: variables[name] for name in THINKING_SWITCHES if variables.get(name) is not None}
        told = {f"chat_template_kwargs.{name}": value for name, value in switches.items()}
        fields = {"open_thinking": self.open_thinking, "enable_thinking": self.enable_thinking}
        told |= {name: value for name, value in fields.items() if value is not None}
        if self.reasoning_effort is not None:
            told["reasoning_effort"] = self.reasoning_effort != "none"
        return told

    @property
    def follows_grammar(self) -> bool:
        """All of the answer, but for reasoning before it."""
        return bool(self.demanded_tools) or self.grammar is not None


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
    content: str | None  # null beside tool calls, where there is none
    refusal: None = None
    reasoning_content: str | None = omitted_if_none()
    tool_calls: list[ToolCall] | None = omitted_if_none()


class ChatChoice(WireAnswer):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: int | str | None
    token_ids: list[int] | None  # where return_token_ids asks for them


class ChatCompletion(OfPrompt):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings | None = omitted_if_none()
