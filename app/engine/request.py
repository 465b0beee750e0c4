"""A request on its way through the engine: what a client asked for, its tokens so far, its slot while it runs, the one
place that decides its end, and what comes back of it, token by token."""

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple, Protocol

from app.engine.detokenizer import Detokenizer, Vocabulary
from app.engine.slots import Slot
from model.batch import ChunkResult, SamplingParams, TargetLogprob

DEADLINE = "deadline"  # the stop reason of a request that its deadline ended
PRIORITY_S = 10.0  # so many seconds of waiting are worth as much as a priority that is lower by one


class FinishReason(StrEnum):
    STOP = "stop"  # an end-of-text token, a stop token or a stop string
    LENGTH = "length"  # max_tokens is reached, or the deadline
    ABORT = "abort"  # the client left, or cancelled
    ERROR = "error"  # a step failed; TokenEvent.error says why
    SHUTDOWN = "shutdown"  # the engine ended, asked to or not; likewise


@dataclass(frozen=True, slots=True)
class Dry:
    """The "don't repeat yourself" penalty: a token that would prolong a repetition of the last n tokens, n of
    `allowed_length` or more, loses multiplier * base ** (n - allowed_length) of its logit."""

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    last_n: int = -1  # tokens that are searched; -1: all, prompt and output
    breaker_token_ids: frozenset[int] = frozenset()  # no repetition reaches over one of these


class Constraint(Protocol):
    """Which tokens may come next, as those so far have it. One for each request; used by one thread at a time."""

    def allowed(self) -> bytes:
        """As Chunk.allowed. May take some time: computed beside the step. Raises ConstraintFailed."""

    def accept(self, token_id: int) -> None:
        """The next token. Raises ConstraintFailed."""


@dataclass(frozen=True, slots=True)
class RequestParams:
    """Everything of a request but its prompt. Validated by the API; the engine trusts it."""

    max_tokens: int  # 0: the prompt is only read
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()  # the text ends before the first of these …
    includes_stop: bool = False  # … or behind it
    stop_token_ids: frozenset[int] = frozenset()  # end-of-text tokens included, unless they are to be ignored
    prints_special_tokens: bool = False
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences whose last token is never chosen behind the others
    dry: Dry | None = None
    constraint: Constraint | None = None
    wants_prompt_logprobs: bool = False  # with sampling.num_prompt_logprobs most likely tokens at each place
    pools: bool = False  # the mean of the prompt's final hidden states is wanted
    adapter: int = 0  # as in OpenedSlot
    priority: int = 0  # the lower goes first, though none for ever
    timeout_s: float | None = None  # from arrival; then what there is is the answer


@dataclass(frozen=True, slots=True)
class Submission:
    """One request as it is handed to the engine."""

    request_id: str  # its own
    prompt_token_ids: tuple[int, ...]
    params: RequestParams
    call_id: str = ""  # of the HTTP request that it came with, which may have several; by it clients see and cancel it
    owner: str = ""  # who may do so


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a request's time went, and what it held. Seconds."""

    queue_s: float  # from arrival to the first slot
    prefill_s: float  # from there to the first token, or to the end
    decode_s: float  # from the first token to the last
    num_blocks: int  # the most that it had at once
    num_bytes: int  # of those


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One sampled token of one request, or its end without one; before the first token, log-probabilities of the prompt
    may come alone. The last event of a request, and only that one, has a finish reason."""

    index: int  # which request of its submission
    token_id: int | None = None  # None: the request ended without a further token
    text: str = ""  # what this token made printable; text held back for half a character or a stop string comes later
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None  # the stop token (end of text included) or stop string that matched
    error: str | None = None
    prompt_logprobs: tuple[TargetLogprob, ...] = ()  # of the prompt's second token and on, in order, each once
    pooled: tuple[float, ...] | None = None  # [E]
    timings: Timings | None = None  # with the last
    num_swaps: int | None = None  # likewise: how many other weights there were before those that it had; None: no slot


class Request:
    """Waiting while it has no slot, running while it has one, finished once it has a finish reason."""

    def __init__(
        self,
        submission: Submission,
        index: int,
        vocabulary: Vocabulary,
        arrival_time: float,
        max_seconds: float = math.inf,
    ) -> None:
        params = submission.params
        self.request_id = submission.request_id
        self.call_id = submission.call_id
        self.owner = submission.owner
        self.index = index
        self.params = params
        self.arrival_time = arrival_time
        self.number = 0  # in the scheduler's order of arrivals; of two that have the same turn, the lower goes first
        self.turn = arrival_time + PRIORITY_S * params.priority  # the smaller, the sooner
        timeout_s = math.inf if params.timeout_s is None else params.timeout_s
        self.deadline = arrival_time + min(timeout_s, max_seconds)
        self.admission_time: float | None = None  # when it got its first slot
        self.num_swaps: int | None = None  # of runners, before the one that it runs on
        self.first_token_time: float | None = None
        self.last_token_time: float | None = None
        self.num_prompt_tokens = len(submission.prompt_token_ids)
        self.token_ids = list(submission.prompt_token_ids)  # prompt, then output
        self.slot: Slot | None = None
        self.max_blocks = 0  # the most that a slot of it had, of those that are freed
        self.num_preemptions = 0
        self.num_faults = 0  # failed steps that it was in
        self.is_decoding = False  # the runner has sampled from this slot, so it knows the last token
        self.finish_reason: FinishReason | None = None
        self._num_prompt_logprobs = 0  # published
        self._pooled: tuple[float, ...] | None = None
        self._detokenizer = Detokenizer(
            vocabulary,
            params.stop,
            includes_stop=params.includes_stop,
            prints_special_tokens=params.prints_special_tokens,
        )

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def samples(self) -> bool:
        """Whether it wants tokens, not only its prompt read."""
        return self.params.max_tokens > 0

    @property
    def wants_pooled(self) -> bool:
        """Whether the mean of its prompt's hidden states is still to come."""
        return self.params.pools and self._pooled is None

    def targets(self, start: int, num_tokens: int) -> tuple[int, ...]:
        """As Chunk.targets, of a chunk of so many tokens from `start` on: what follows each of them in the prompt."""
        end = min(start + num_tokens, self.num_prompt_tokens - 1)
        if not self.params.wants_prompt_logprobs or end <= self._num_prompt_logprobs:
            return ()
        return tuple(self.token_ids[start + 1 : end + 1])

    def read_prompt(self, start: int, result: ChunkResult) -> TokenEvent | None:
        """Takes what a chunk from `start` on gave besides a token; log-probabilities that are new become an event."""
        self._pooled = result.pooled or self._pooled
        fresh = result.targets[max(0, self._num_prompt_logprobs - start) :]
        self._num_prompt_logprobs += len(fresh)
        return TokenEvent(self.index, prompt_logprobs=fresh) if fresh else None

    def accept(self, result: ChunkResult) -> TokenEvent:
        """Takes a sampled token and says what it means for the client."""
        assert result.token_id is not None
        assert self.finish_reason is None
        self.token_ids.append(result.token_id)
        text, stop_reason = self._text_of(result.token_id)
        if stop_reason is not None:
            self.finish_reason = FinishReason.STOP
        elif self.num_output_tokens >= self.params.max_tokens:
            self.finish_reason = FinishReason.LENGTH
            text += self._detokenizer.flush()
        return TokenEvent(
            index=self.index,
            token_id=result.token_id,
            text=text,
            logprob=result.logprob,
            top_logprobs=result.top_logprobs,
            finish_reason=self.finish_reason,
            stop_reason=stop_reason,
        )

    def end(self, reason: FinishReason, error: str | None = None, stop_reason: str | None = None) -> TokenEvent:
        """Ends without a further token."""
        assert self.finish_reason is None, "a request ends once"
        self.finish_reason = reason
        text = self._detokenizer.flush()
        return TokenEvent(self.index, text=text, finish_reason=reason, stop_reason=stop_reason, error=error)

    def last(self, event: TokenEvent, now: float, block_bytes: int) -> TokenEvent:
        """The last event as the client gets it: with what it all took, and the pooled state."""
        last_token_time = self.last_token_time if event.token_id is None else now
        timings = self._timings(now, last_token_time, block_bytes)
        return replace(event, pooled=self._pooled, timings=timings, num_swaps=self.num_swaps)

    def _timings(self, now: float, last_token_time: float | None, block_bytes: int) -> Timings:
        admission = now if self.admission_time is None else self.admission_time
        first = now if self.first_token_time is None else self.first_token_time
        last = first if last_token_time is None else last_token_time
        num_blocks = max(self.max_blocks, len(self.slot.block_ids) if self.slot else 0)
        return Timings(
            queue_s=admission - self.arrival_time,
            prefill_s=first - admission,
            decode_s=last - first,
            num_blocks=num_blocks,
            num_bytes=num_blocks * block_bytes,
        )

    def _text_of(self, token_id: int) -> tuple[str, int | str | None]:
        """What the token makes printable, and the stop token or stop string that it completes."""
        if token_id in self.params.stop_token_ids:
            shown = self._detokenizer.push(token_id, may_stop=False) if self.params.includes_stop else ""
            return shown + self._detokenizer.flush(), token_id
        may_stop = self.num_output_tokens >= self.params.sampling.min_tokens
        text = self._detokenizer.push(token_id, may_stop=may_stop)
        return text, self._detokenizer.matched


class Emission(NamedTuple):
    """An event, and whose."""

    request: Request
    event: TokenEvent
