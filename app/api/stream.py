"""TokenEvents → the bytes of a stream, or one body; and the response that ends its requests whatever happens.

A stream is ASCII throughout, so that no cut in it can split a character. Its first bytes wait for the first token (or
for the first ping): a request that fails before has a proper status, and a client that times the first byte times the
first token.
"""

import asyncio
import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.api.answers import AnswerFormat, AnswerPlan, by_choice, join, num_tokens, raise_if_failed, usage
from app.api.errors import GenerationFailed, error_body
from app.engine.engine import Engine
from app.engine.errors import EngineDead
from app.engine.request import Submission, TokenEvent
from app.engine.stream import EventStream

COMPACT = (",", ":")
PING = b": ping\n\n"
PING_AFTER_S = 15.0  # of silence; naive clients stumble over comments, so only where a proxy might lose patience
HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}


@dataclass(slots=True)
class _Choice:
    unsent: list[TokenEvent] = field(default_factory=list)  # nothing printable in them yet
    is_first: bool = True
    num_characters: int = 0


class ChunkWriter:
    """Server-sent events of one answer. What never changes in a chunk is encoded once."""

    def __init__(self, plan: AnswerPlan, answer_format: AnswerFormat) -> None:
        self._plan = plan
        self._format = answer_format
        self._choices = [_Choice() for _ in range(plan.num_choices)]
        self._num_open = plan.num_choices
        self._num_tokens = 0
        head = {"id": plan.id, "object": answer_format.chunk_object, "created": plan.created, "model": plan.model}
        self._head = f'data: {json.dumps(head, separators=COMPACT)[:-1]},"choices":['

    @property
    def is_finished(self) -> bool:
        return self._num_open == 0

    def write(self, events: Sequence[TokenEvent]) -> bytes:
        """At most one chunk for each choice; behind the last one, the end of the stream. Empty if there is nothing to
        show. Raises GenerationFailed or EngineDead."""
        raise_if_failed(events)
        self._num_tokens += num_tokens(events)
        for event in events:
            self._choices[event.index].unsent.append(event)
        chunks = [self._chunk(self._choices[index]) for index in dict.fromkeys(event.index for event in events)]
        if self.is_finished:
            chunks.append(self._end())
        return "".join(chunks).encode()

    def _chunk(self, choice: _Choice) -> str:
        piece = join(choice.unsent, self._plan)
        if not piece.text and piece.finish_reason is None:
            return ""
        members = [f'"index":{piece.index}', self._format.delta(piece.text, choice.is_first)]
        members.append(f'"logprobs":{self._logprobs(choice)}')
        if self._plan.with_token_ids:
            members.append(f'"token_ids":{piece.token_ids}')
        if piece.finish_reason is None:
            members.append('"finish_reason":null')
        else:
            self._num_open -= 1
            members.append(f'"finish_reason":"{piece.finish_reason}","stop_reason":{json.dumps(piece.stop_reason)}')
        choice.unsent.clear()
        choice.is_first = False
        return f"{self._head}{{{','.join(members)}}}]{self._running_usage()}}}\n\n"

    def _logprobs(self, choice: _Choice) -> str:
        if not self._plan.with_logprobs:
            return "null"
        tokens = [event for event in choice.unsent if event.token_id is not None]
        logprobs, choice.num_characters = self._format.logprobs(tokens, choice.num_characters)
        return json.dumps(logprobs.model_dump(), separators=COMPACT)

    def _running_usage(self) -> str:
        if self._plan.with_running_usage:
            return f',"usage":{self._usage()}'
        return ',"usage":null' if self._plan.with_usage else ""

    def _end(self) -> str:
        usage_chunk = f'{self._head}],"usage":{self._usage()}}}\n\n' if self._plan.with_usage else ""
        return usage_chunk + "data: [DONE]\n\n"

    def _usage(self) -> str:
        return usage(self._plan, self._num_tokens).model_dump_json()


class EngineResponse(Response):
    """Submits, answers, and frees: whether the answer is complete, failed, or its client has gone, on leaving this
    response nothing of its requests is left in the engine."""

    def __init__(self, engine: Engine, submissions: Sequence[Submission]) -> None:
        super().__init__()
        self._engine = engine
        self._submissions = submissions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's signature
        stream = self._engine.submit(self._submissions)
        answering = asyncio.create_task(self._answer(stream, send))
        leaving = asyncio.create_task(_client_leaves(receive))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            stream.abort()
            answering.cancel()
            leaving.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    @abstractmethod
    async def _answer(self, stream: EventStream, send: Send) -> None:
        """Sends all of the response. Raises GenerationFailed or EngineDead where nothing has been sent yet."""


class WholeAnswer(EngineResponse):
    """One JSON body, when all choices are complete."""

    def __init__(
        self, engine: Engine, submissions: Sequence[Submission], plan: AnswerPlan, answer_format: AnswerFormat
    ) -> None:
        super().__init__(engine, submissions)
        self._plan = plan
        self._format = answer_format

    async def _answer(self, stream: EventStream, send: Send) -> None:
        events: list[TokenEvent] = []
        while arrived := await stream.next():
            raise_if_failed(arrived)
            events += arrived
        pieces = [join(of_choice, self._plan) for of_choice in by_choice(events, self._plan.num_choices)]
        answer = self._format.answer(self._plan, pieces, usage(self._plan, num_tokens(events)))
        body = answer.model_dump_json().encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        await send(_start(headers))
        await send({"type": "http.response.body", "body": body})


class StreamedAnswer(EngineResponse):
    """Server-sent events, as the tokens come."""

    def __init__(
        self,
        engine: Engine,
        submissions: Sequence[Submission],
        writer: ChunkWriter,
        ping_after_s: float = PING_AFTER_S,
    ) -> None:
        super().__init__(engine, submissions)
        self._writer = writer
        self._ping_after_s = ping_after_s
        self._is_started = False

    async def _answer(self, stream: EventStream, send: Send) -> None:
        silent_since = asyncio.get_running_loop().time()
        try:
            while not self._writer.is_finished:
                data = await self._next_bytes(stream, silent_since + self._ping_after_s)
                if data:
                    await self._send(send, data, more=not self._writer.is_finished)
                    silent_since = asyncio.get_running_loop().time()
        except (GenerationFailed, EngineDead) as error:
            if not self._is_started:
                raise
            await self._send(send, f"data: {json.dumps(error_body(error))}\n\n".encode(), more=False)

    async def _next_bytes(self, stream: EventStream, deadline: float) -> bytes:
        try:
            async with asyncio.timeout_at(deadline):
                events = await stream.next()
        except TimeoutError:
            return PING
        return self._writer.write(events)

    async def _send(self, send: Send, data: bytes, *, more: bool) -> None:
        if not self._is_started:
            self._is_started = True
            await send(_start(HEADERS))
        await send({"type": "http.response.body", "body": data, "more_body": more})


def _start(headers: dict[str, str]) -> Message:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": 200, "headers": raw}


async def _client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
