"""What an answer of `/v1/completions` or `/v1/chat/completions` says, and when: streamed or in one piece.

An answer that is refused, broken off or not understood ends as a failure with a line for the user, never as an
exception: a load test counts it and goes on.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from app.bench.records import Failure

EVENT, END = b"data:", b"[DONE]"
MAX_PENDING = 1 << 26  # bytes of a body in one piece, or of one event: more is no answer
MAX_MESSAGE = 300  # characters of what a server says


class Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Timings(BaseModel):
    """slotwise's, and llama-server's, which has no queue_ms."""

    queue_ms: float | None = None
    prompt_ms: float | None = None


class Message(BaseModel):
    """Of a chat: a piece of one, or a whole one."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = None


class Choice(BaseModel):
    text: str | None = None
    delta: Message | None = None
    message: Message | None = None
    finish_reason: str | None = None

    @property
    def said(self) -> str:
        message = self.delta or self.message
        if message is None:
            return self.text or ""
        text = (message.reasoning_content or message.reasoning or "") + (message.content or "")
        return text or (str(message.tool_calls) if message.tool_calls else "")


class Event(BaseModel):
    """What is read of an event, or of a whole answer; a server may say more."""

    choices: list[Choice] = []
    usage: Usage | None = None
    timings: Timings | None = None
    error: Any = None


class Answer(ABC):
    """One answer while it comes in: a Receiver. Times are as they are given."""

    def __init__(self, on_piece: Callable[[float], None], *, cancel_after: int | None, keep_text: bool) -> None:
        self.has_enough = False
        self.is_cancelled = False
        self.failure: Failure | None = None
        self.message = ""
        self.first: float | None = None
        self.last: float | None = None  # when the last token was known
        self.gaps: list[float] = []
        self.usage: Usage | None = None
        self.queue_s: float | None = None
        self.prefill_s: float | None = None
        self.texts: list[str] | None = [] if keep_text else None
        self._status = 0
        self._pending = b""
        self._num_pieces = 0
        self._cancel_after = cancel_after
        self._on_piece = on_piece

    def head(self, status: int) -> None:
        self._status = status

    def body(self, data: bytes, now: float) -> None:
        self._pending += data
        if len(self._pending) > MAX_PENDING:
            self.fail(Failure.NONSENSE, "the answer is too long to be one")
        elif self._status == 200:
            self._read(now)

    def finish(self) -> None:
        """All has come: what is missing is a failure."""
        if self.failure or self.is_cancelled:
            return
        if self._status != 200:
            failure = Failure.REFUSED if self._status >= 400 else Failure.NONSENSE
            self.fail(failure, f"status {self._status}: {_explanation(self._pending)}")
            return
        self._finish()
        if self.failure is None and self.usage is None:
            self.fail(Failure.NO_USAGE, "the answer does not say how many tokens it has (usage)")

    def fail(self, failure: Failure, message: str) -> None:
        if self.failure is None:
            self.failure, self.message, self.has_enough = failure, " ".join(message.split())[:MAX_MESSAGE], True

    @abstractmethod
    def _read(self, now: float) -> None:
        """Of what is pending, as much as is complete."""

    @abstractmethod
    def _finish(self) -> None:
        """Nothing will follow."""

    def _take(self, payload: bytes, now: float) -> None:
        try:
            event = Event.model_validate_json(payload)
        except ValidationError as error:
            problem = error.errors()[0]
            self.fail(Failure.NONSENSE, f"not an answer of this API ({problem['msg']}): {_decoded(payload)}")
            return
        if event.error:
            self.fail(Failure.BROKEN, f"the server reports an error: {_message_of(event.error)}")
            return
        for choice in event.choices:
            self._take_choice(choice, now)
        self.usage = event.usage or self.usage
        if event.timings:
            self.queue_s, self.prefill_s = _seconds(event.timings.queue_ms), _seconds(event.timings.prompt_ms)

    def _take_choice(self, choice: Choice, now: float) -> None:
        text = choice.said
        if text:
            self._take_text(text, now)
        if text or choice.finish_reason:
            self.last = now

    def _take_text(self, text: str, now: float) -> None:
        if self.first is None:
            self.first = now
        else:
            assert self.last is not None
            self.gaps.append(now - self.last)
        self._on_piece(now)
        self._num_pieces += 1
        if self.texts is not None:
            self.texts.append(text)
        if self._num_pieces == self._cancel_after:
            self.is_cancelled = self.has_enough = True


class StreamedAnswer(Answer):
    """Server-sent events, up to `[DONE]`."""

    _has_ended = False

    def _read(self, now: float) -> None:
        *lines, self._pending = self._pending.split(b"\n")
        for line in lines:
            if line.startswith(EVENT) and not self.has_enough:
                self._take_event(line[len(EVENT) :].strip(), now)

    def _take_event(self, payload: bytes, now: float) -> None:
        if payload == END:
            self._has_ended = True
        elif not self._has_ended:
            self._take(payload, now)

    def _finish(self) -> None:
        if not self._has_ended:
            self.fail(Failure.BROKEN, "the stream ended without its end mark")


class WholeAnswer(Answer):
    """One JSON text. When its tokens came is not known, so there is no first."""

    def _read(self, now: float) -> None:
        self.last = now

    def _finish(self) -> None:
        self._take(self._pending, self.last or 0.0)
        self.first, self.gaps = None, []


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _explanation(body: bytes) -> str:
    try:
        error = Event.model_validate_json(body).error
    except ValidationError:
        error = None
    return _message_of(error) if error else _decoded(body)


def _message_of(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _decoded(body: bytes) -> str:
    return body[:MAX_MESSAGE].decode(errors="replace")
