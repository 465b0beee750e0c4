"""The events of a streamed response, in OpenAI's words."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from app.api.answers import raise_if_failed
from app.api.chat.blocks import Block, BlockKind, Change, Closed, Grown, Opened
from app.api.chat.deltas import ChatParser
from app.api.responses.answer import ResponseAnswer
from app.api.schemas.response_objects import ModelResponse
from app.api.server_sent import named_event
from app.engine.request import TokenEvent

# What a block's growth is called.
SUBJECTS: Mapping[BlockKind, str] = MappingProxyType(
    {
        BlockKind.REASONING: "response.reasoning_text",
        BlockKind.TEXT: "response.output_text",
        BlockKind.TOOL_CALL: "response.function_call_arguments",
    }
)


class ResponseWriter:
    """A `Writer`. Every event bears the next number."""

    def __init__(self, answer: ResponseAnswer, parser: ChatParser) -> None:
        self.is_finished = False
        self._answer = answer
        self._turn = answer.turn(parser)
        self._num_events = 0

    def write(self, events: Sequence[TokenEvent]) -> bytes:
        raise_if_failed(events)
        changes = [change for event in events for change in self._turn.push(event)]
        self.is_finished = self._turn.finish_reason is not None
        written = [*self._begin(), *self._tell(changes)] if changes or self.is_finished else []
        if self.is_finished:
            response = self._answer.ended(self._turn)
            written.append(self._lifecycle(response.status, response))
        return "".join(written).encode()

    def error(self, error: Exception) -> bytes:
        return "".join([*self._begin(), self._lifecycle("failed", self._answer.failed(self._turn, error))]).encode()

    def _begin(self) -> Iterator[str]:
        if self._num_events == 0:
            response = self._answer.begun()
            yield self._lifecycle("created", response)
            yield self._lifecycle("in_progress", response)

    def _tell(self, changes: Sequence[Change]) -> Iterator[str]:
        for change in changes:
            match change:
                case Opened(block):
                    yield from self._open(block)
                case Grown():
                    yield self._grow(change)
                case Closed(block):
                    yield from self._close(block)

    def _open(self, block: Block) -> Iterator[str]:
        item = self._answer.item(block).model_dump()
        yield self._event("response.output_item.added", output_index=block.index, item=item)
        if block.kind is not BlockKind.TOOL_CALL:
            part = self._answer.part(block).model_dump()
            yield self._event("response.content_part.added", **self._place(block), part=part)

    def _grow(self, change: Grown) -> str:
        block = change.block
        more = self._logprobs(block, change.tokens)
        return self._event(f"{SUBJECTS[block.kind]}.delta", **self._place(block), delta=change.piece, **more)

    def _close(self, block: Block) -> Iterator[str]:
        done = f"{SUBJECTS[block.kind]}.done"
        if block.kind is BlockKind.TOOL_CALL:
            yield self._event(done, **self._place(block), arguments=block.text, name=block.name)
        else:
            more = self._logprobs(block, block.tokens)
            yield self._event(done, **self._place(block), text=block.text, **more)
            part = self._answer.part(block).model_dump()
            yield self._event("response.content_part.done", **self._place(block), part=part)
        item = self._answer.item(block).model_dump()
        yield self._event("response.output_item.done", output_index=block.index, item=item)

    def _place(self, block: Block) -> dict[str, Any]:
        place = {"item_id": self._answer.item_id(block), "output_index": block.index}
        return place if block.kind is BlockKind.TOOL_CALL else {**place, "content_index": 0}

    def _logprobs(self, block: Block, tokens: Sequence[TokenEvent]) -> dict[str, Any]:
        if block.kind is not BlockKind.TEXT:
            return {}
        return {"logprobs": [entry.model_dump() for entry in self._answer.logprobs(tokens)]}

    def _lifecycle(self, state: str, response: ModelResponse) -> str:
        return self._event(f"response.{state}", response=response.model_dump())

    def _event(self, type: str, **members: Any) -> str:
        event = named_event(type, {"type": type, "sequence_number": self._num_events, **members})
        self._num_events += 1
        return event
