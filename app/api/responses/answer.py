"""The response that POST /v1/responses answers with, at its beginning, at its end and where it fails; and the items of
its output, from the blocks of a chat's turn."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from app.api.answers import AnswerPlan
from app.api.chat.blocks import Block, BlockKind, Turn
from app.api.chat.deltas import ChatParser
from app.api.errors import error_body
from app.api.logprobs import TokenTexts, chat_logprobs
from app.api.schemas.chat import ChosenTokenLogprob
from app.api.schemas.response_objects import (
    IncompleteDetails,
    ItemStatus,
    ModelResponse,
    OutputFunctionCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputReasoningText,
    OutputText,
    OutputTokensDetails,
    ResponseError,
    ResponseUsage,
    Status,
)
from app.api.schemas.responses import NamedFunction, ResponsesRequest
from app.engine.request import FinishReason, TokenEvent
from model.batch import SamplingParams

ID_PREFIXES: Mapping[BlockKind, str] = MappingProxyType(
    {BlockKind.REASONING: "rs", BlockKind.TEXT: "msg", BlockKind.TOOL_CALL: "fc"}
)


@dataclass(frozen=True, slots=True)
class ResponseAnswer:
    request_id: str
    body: ResponsesRequest
    plan: AnswerPlan
    sampling: SamplingParams  # in force
    texts: TokenTexts

    def turn(self, parser: ChatParser) -> Turn:
        return Turn(parser, keeps_tokens=self.body.wants_logprobs)

    def render(self, parser: ChatParser, events: Sequence[TokenEvent]) -> ModelResponse:
        """The whole answer."""
        turn = self.turn(parser)
        for event in events:
            turn.push(event)
        return self.ended(turn)

    def begun(self) -> ModelResponse:
        return self._response("in_progress")

    def ended(self, turn: Turn) -> ModelResponse:
        incomplete = _why_incomplete(turn.finish_reason)
        if incomplete is not None:
            return self._response("incomplete", turn, incomplete_details=incomplete)
        return self._response("completed", turn, completed_at=int(time.time()))

    def failed(self, turn: Turn, error: Exception) -> ModelResponse:
        return self._response("failed", turn, error=ResponseError(message=error_body(error)["error"]["message"] or ""))

    def item_id(self, block: Block) -> str:
        return f"{ID_PREFIXES[block.kind]}_{self.request_id}_{block.index}"

    def item(self, block: Block) -> OutputItem:
        id, status = self.item_id(block), status_of(block)
        if block.kind is BlockKind.TOOL_CALL:
            return OutputFunctionCall(
                id=id, status=status, call_id=block.call_id, name=block.name, arguments=block.text
            )
        if block.kind is BlockKind.REASONING:
            return OutputReasoning(id=id, status=status, content=[self.reasoning(block)] if block.text else [])
        return OutputMessage(id=id, status=status, content=[self.text(block)] if block.text else [])

    def part(self, block: Block) -> OutputText | OutputReasoningText:
        """The one part that a text or a reasoning consists of."""
        return self.reasoning(block) if block.kind is BlockKind.REASONING else self.text(block)

    def text(self, block: Block) -> OutputText:
        return OutputText(text=block.text, logprobs=self.logprobs(block.tokens))

    def reasoning(self, block: Block) -> OutputReasoningText:
        return OutputReasoningText(text=block.text)

    def logprobs(self, tokens: Sequence[TokenEvent]) -> Sequence[ChosenTokenLogprob]:
        return chat_logprobs(tokens, self.texts).content

    def _response(self, status: Status, turn: Turn | None = None, **state: Any) -> ModelResponse:
        return ModelResponse(
            id=f"resp_{self.request_id}",
            created_at=self.plan.created,
            status=status,
            model=self.plan.model,
            output=[self.item(block) for block in turn.blocks] if turn else [],
            usage=self._usage(turn) if turn else None,
            instructions=self.body.instructions,
            max_output_tokens=self.body.max_output_tokens,
            metadata=self.body.metadata or {},
            parallel_tool_calls=self.body.parallel_tool_calls is not False,
            reasoning={"effort": self.body.reasoning and self.body.reasoning.effort, "summary": None},
            temperature=self.sampling.temperature,
            text={"format": _format(self.body)},
            tool_choice=_tool_choice(self.body),
            tools=[tool.model_dump() for tool in self.body.tools or ()],
            top_logprobs=self.body.top_logprobs or 0,
            top_p=self.sampling.top_p,
            **state,
        )

    def _usage(self, turn: Turn) -> ResponseUsage:
        return ResponseUsage(
            input_tokens=self.plan.num_prompt_tokens,
            output_tokens=turn.num_tokens,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=turn.num_reasoning_tokens),
            total_tokens=self.plan.num_prompt_tokens + turn.num_tokens,
        )


def status_of(block: Block) -> ItemStatus:
    if block.is_open:
        return "in_progress"
    return "incomplete" if block.is_cut else "completed"


def _why_incomplete(reason: FinishReason | None) -> IncompleteDetails | None:
    if reason is FinishReason.STOP:
        return None
    return IncompleteDetails(reason="max_output_tokens" if reason is FinishReason.LENGTH else "cancelled")


def _format(body: ResponsesRequest) -> Mapping[str, Any]:
    if body.text is None or body.text.format is None:
        return {"type": "text"}
    return body.text.format.model_dump(by_alias=True, exclude_none=True)


def _tool_choice(body: ResponsesRequest) -> str | Mapping[str, Any]:
    choice = body.tool_choice or "auto"
    return choice.model_dump() if isinstance(choice, NamedFunction) else choice
