"""What an answer consists of, whichever API asks and whether it is streamed: a plan, pieces of its choices, the usage.

A format says how a piece looks on the wire. Nothing here sends anything.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.api.errors import GenerationFailed
from app.api.schemas.generation import GenerationRequest, Usage
from app.api.schemas.wire import WireAnswer
from app.api.served import ServedModel
from app.engine.errors import EngineDead
from app.engine.request import FinishReason, Submission, TokenEvent


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """What is known of an answer before its first token: what every part of it repeats, what the client wants in it."""

    id: str
    created: int  # Unix time, seconds
    model: str
    num_choices: int
    num_prompt_tokens: int  # each prompt once, however many choices it has
    eos_token_ids: frozenset[int]  # a stop at one of these needs no stop_reason
    with_logprobs: bool
    with_token_ids: bool
    with_usage: bool  # streams only: at the end …
    with_running_usage: bool  # … and so far, in every chunk


def plan_answer(
    id: str, created: int, body: GenerationRequest, served: ServedModel, submissions: Sequence[Submission]
) -> AnswerPlan:
    options = body.stream_options
    with_usage = bool(options and options.include_usage)
    return AnswerPlan(
        id=id,
        created=created,
        model=served.name,
        num_choices=len(submissions),
        num_prompt_tokens=sum(len(one.prompt_token_ids) for one in submissions[:: body.n or 1]),
        eos_token_ids=frozenset() if body.ignore_eos else served.eos_token_ids,
        with_logprobs=body.num_logprobs is not None,
        with_token_ids=bool(body.return_token_ids),
        with_usage=with_usage,
        with_running_usage=with_usage and bool(options and options.continuous_usage_stats),
    )


@dataclass(frozen=True, slots=True)
class Piece:
    """What some consecutive events, or all of them, made of one choice."""

    index: int
    text: str
    tokens: tuple[TokenEvent, ...]  # the events that brought a token
    finish_reason: FinishReason | None
    stop_reason: int | str | None

    @property
    def token_ids(self) -> list[int]:
        return [event.token_id for event in self.tokens if event.token_id is not None]


class AnswerFormat(Protocol):
    """How one of the APIs writes."""

    @property
    def id_prefix(self) -> str: ...

    @property
    def chunk_object(self) -> str: ...

    def delta(self, text: str, is_first: bool) -> str:
        """A chunk's text as a JSON member."""

    def logprobs(self, tokens: Sequence[TokenEvent], num_characters: int) -> tuple[WireAnswer, int]:
        """Of tokens before which `num_characters` have begun; and how many have after them."""
        ...

    def answer(self, plan: AnswerPlan, pieces: Sequence[Piece], usage: Usage) -> WireAnswer:
        """The whole answer, from one piece for each choice."""


def join(events: Sequence[TokenEvent], plan: AnswerPlan) -> Piece:
    """`events` are consecutive ones of one choice, at least one."""
    last = events[-1]
    return Piece(
        index=last.index,
        text="".join(event.text for event in events),
        tokens=tuple(event for event in events if event.token_id is not None),
        finish_reason=last.finish_reason,
        stop_reason=None if last.stop_reason in plan.eos_token_ids else last.stop_reason,
    )


def by_choice(events: Iterable[TokenEvent], num_choices: int) -> list[list[TokenEvent]]:
    choices: list[list[TokenEvent]] = [[] for _ in range(num_choices)]
    for event in events:
        choices[event.index].append(event)
    return choices


def raise_if_failed(events: Iterable[TokenEvent]) -> None:
    for event in events:
        if event.finish_reason is FinishReason.ERROR:
            raise GenerationFailed(event.error or "The model failed.")
        if event.finish_reason is FinishReason.SHUTDOWN:
            raise EngineDead(event.error or "The server is shutting down.")


def num_tokens(events: Iterable[TokenEvent]) -> int:
    return sum(event.token_id is not None for event in events)


def usage(plan: AnswerPlan, num_completion_tokens: int) -> Usage:
    return Usage(
        prompt_tokens=plan.num_prompt_tokens,
        completion_tokens=num_completion_tokens,
        total_tokens=plan.num_prompt_tokens + num_completion_tokens,
    )
