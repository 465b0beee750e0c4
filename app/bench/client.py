"""Asks a server for answers, and for the small things around them: one request in, one record out.

It never decides when to send or what to ask, and it computes no figures.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from app.bench.answers import Answer, StreamedAnswer, WholeAnswer
from app.bench.connection import Connections, Lost, Site
from app.bench.records import Ask, Failure, Record, RunSettings


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds since the run's start."""

    origin: float

    @classmethod
    def start(cls) -> Self:
        return cls(time.perf_counter())

    def now(self) -> float:
        return time.perf_counter() - self.origin


@dataclass(frozen=True, slots=True)
class Page:
    """What a plain request was answered."""

    status: int
    body: bytes

    def json(self) -> Any:
        """None where the answer is an error or no JSON."""
        try:
            return json.loads(self.body) if self.status == 200 else None
        except ValueError:
            return None


class _PageReceiver:
    has_enough = False

    def __init__(self) -> None:
        self.status = 0
        self.parts: list[bytes] = []

    def head(self, status: int) -> None:
        self.status = status

    def body(self, data: bytes, now: float) -> None:  # noqa: ARG002 - a Receiver's signature
        self.parts.append(data)


class Client(AbstractAsyncContextManager["Client"]):
    """Of one server. Raises BadWorkload for a URL that is none."""

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.site = Site.parse(settings.base_url)
        self._connections = Connections(self.site, is_verified=settings.is_verified)
        self._headers = {"Content-Type": "application/json", **dict(settings.headers)}
        if settings.api_key is not None:
            self._headers["Authorization"] = f"Bearer {settings.api_key}"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connections.close()

    async def fetch(self, path: str, body: Mapping[str, Any] | None = None, *, timeout: float = 30.0) -> Page:  # noqa: ASYNC109 - of all tries
        """GET, or POST where there is a body. Raises Lost where no answer comes."""
        content = b"" if body is None else json.dumps(body).encode()
        request = self.site.request("GET" if body is None else "POST", path, self._headers, content)
        receiver = _PageReceiver()
        try:
            async with asyncio.timeout(timeout):
                await self._connections.exchange(request, receiver)
        except TimeoutError as error:
            raise Lost(Failure.TIMEOUT, f"{path} has no answer after {timeout:g} s") from error
        return Page(receiver.status, b"".join(receiver.parts))

    async def ask(
        self, ask: Ask, clock: Clock, scheduled: float, on_piece: Callable[[float], None] = lambda _: None
    ) -> Record:
        """`on_piece` is called with perf_counter for each piece of text."""
        kind = StreamedAnswer if self.settings.is_streamed else WholeAnswer
        answer = kind(on_piece, cancel_after=ask.cancel_after, keep_text=ask.keep_text)
        request = self.site.request("POST", self.settings.url_path, self._headers, self._body(ask))
        sent = clock.now()
        try:
            async with asyncio.timeout(self.settings.timeout):
                await self._connections.exchange(request, answer)
        except TimeoutError:
            answer.fail(Failure.TIMEOUT, f"no end of the answer after {self.settings.timeout:g} s")
        except Lost as lost:
            answer.fail(lost.failure, str(lost))
        answer.finish()
        return _record(ask, answer, clock, scheduled, sent)

    def _body(self, ask: Ask) -> bytes:
        settings = self.settings
        body: dict[str, Any] = {"model": settings.model, "max_tokens": ask.max_tokens, "stream": settings.is_streamed}
        if settings.endpoint == "chat":
            body["messages"] = [{"role": "user", "content": ask.prompt}] if isinstance(ask.prompt, str) else ask.prompt
        else:
            body["prompt"] = ask.prompt
        if settings.is_streamed:
            body["stream_options"] = {"include_usage": True}
        temperature = settings.temperature if ask.temperature is None else ask.temperature
        if temperature is not None:
            body["temperature"] = temperature
        if settings.ignore_eos:
            body["ignore_eos"] = True
        if ask.seed is not None:
            body["seed"] = ask.seed
        return json.dumps(body | dict(settings.extra_body)).encode()


def _record(ask: Ask, answer: Answer, clock: Clock, scheduled: float, sent: float) -> Record:
    failed = answer.failure is not None or answer.is_cancelled
    ended = clock.now() if failed or answer.last is None else answer.last - clock.origin
    return Record(
        number=ask.number,
        scheduled=scheduled,
        sent=sent,
        first=None if answer.first is None else answer.first - clock.origin,
        ended=ended,
        prompt_tokens=answer.usage.prompt_tokens if answer.usage else 0,
        output_tokens=answer.usage.completion_tokens if answer.usage else 0,
        gaps=tuple(answer.gaps),
        text=None if answer.texts is None else "".join(answer.texts),
        failure=answer.failure,
        message=answer.message,
        is_cancelled=answer.is_cancelled,
        queue_s=answer.queue_s,
        prefill_s=answer.prefill_s,
    )
