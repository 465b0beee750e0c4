"""What an answer consists of, whichever API asks and whether it is streamed: a plan, pieces of its choices, the usage.

How a piece looks on the wire is each API's own. Nothing here sends anything.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.api.errors import GenerationFailed
from app.api.logprobs import TokenTexts, prompt_logprobs, scored_prompt
from app.api.schemas.generation import GenerationRequest, OfPrompt, PromptLogprobs, Timings, Usage
from app.api.served import ServedModel
from app.api.timings import timings_of
from app.engine.errors import EngineDead
from app.engine.request import FinishReason, Submission, TokenEvent
from app.engine.request import Timings as RequestTimings
from model.batch import TargetLogprob


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """What is known of an answer before its first token: what every part of it repeats, what the client wants in it."""

    id: str
    created: int  # Unix time, seconds
    model: str
    fingerprint: str
    prompts: tuple[tuple[int, ...], ...]  # each once, however many choices it has
    num_candidates: int  # generated for each prompt, one submission each, those of a prompt side by side …
    num_choices: int  # … and shown of each
    eos_token_ids: frozenset[int]  # a stop at one of these needs no stop_reason
    num_logprobs: int | None
    num_prompt_logprobs: int | None
    with_token_ids: bool
    with_timings: bool
    with_usage: bool  # streams only: at the end …
    with_running_usage: bool  # … and so far, in every chunk

    @property
    def num_prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    def prompt_of(self, index: int) -> tuple[int, ...]:
        """Of the submission with that index."""
        return self.prompts[index // self.num_candidates]


def plan_answer(
    id: str, created: int, body: GenerationRequest, served: ServedModel, submissions: Sequence[Submission]
) -> AnswerPlan:
    options = body.stream_options
    with_usage = bool(options and options.include_usage)
    return AnswerPlan(
        id=id,
        created=created,
        model=served.called(body.model),
        fingerprint=served.system_fingerprint,
        prompts=tuple(one.prompt_token_ids for one in submissions[:: body.num_candidates]),
        num_candidates=body.num_candidates,
        num_choices=body.n or 1,
        eos_token_ids=frozenset() if body.ignore_eos else served.eos_token_ids,
        num_logprobs=body.num_logprobs,
        num_prompt_logprobs=body.prompt_logprobs,
        with_token_ids=bool(body.return_token_ids),
        with_timings=body.timings is not False,
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


def join(events: Sequence[TokenEvent], plan: AnswerPlan) -> Piece:
    """`events` are consecutive ones of one choice, at least one."""
    last = events[-1]
    return Piece(
        index=last.index,
        text="".join([event.text for event in events]),
        tokens=tuple([event for event in events if event.token_id is not None]),
        finish_reason=last.finish_reason,
        stop_reason=None if last.stop_reason in plan.eos_token_ids else last.stop_reason,
    )


def prompt_targets(events: Iterable[TokenEvent]) -> tuple[TargetLogprob, ...]:
    """Of the prompt's second token and on."""
    return tuple([target for event in events for target in event.prompt_logprobs])


def of_prompt(plan: AnswerPlan, events: Sequence[TokenEvent], texts: TokenTexts) -> OfPrompt:
    """`events` are those of one choice up to its first token at least."""
    token_ids = plan.prompt_of(events[-1].index)
    found: PromptLogprobs | None = None
    if plan.num_prompt_logprobs is not None:
        tokens = scored_prompt(token_ids, prompt_targets(events), plan.num_prompt_logprobs)
        found = prompt_logprobs(tokens, texts)
    return OfPrompt(prompt_token_ids=list(token_ids) if plan.with_token_ids else None, prompt_logprobs=found)


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


def timings(plan: AnswerPlan, requests: Sequence[RequestTimings | None], num_completion_tokens: int) -> Timings | None:
    """`requests`: of each that was run, as its last event has them."""
    known = [one for one in requests if one is not None]
    return timings_of(known, plan.num_prompt_tokens, num_completion_tokens) if plan.with_timings and known else None
