"""A request on its way through the engine: what a client asked for, its tokens so far, its slot while it runs, the one
place that decides its end, and what comes back of it, token by token."""

from dataclasses import dataclass, field
from enum import StrEnum

from app.engine.detokenizer import Detokenizer, Vocabulary
from app.engine.slots import Slot
from model.batch import ChunkResult, SamplingParams


class FinishReason(StrEnum):
    STOP = "stop"  # an end-of-text token, a stop token or a stop string
    LENGTH = "length"  # max_tokens is reached
    ABORT = "abort"  # the client left, or cancelled
    ERROR = "error"  # a step failed; TokenEvent.error says why
    SHUTDOWN = "shutdown"  # the engine ended, asked to or not; likewise


@dataclass(frozen=True, slots=True)
class RequestParams:
    """Everything of a request but its prompt. Validated by the API; the engine trusts it."""

    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()  # the text ends before the first of these
    stop_token_ids: frozenset[int] = frozenset()  # end-of-text tokens included, unless they are to be ignored


@dataclass(frozen=True, slots=True)
class Submission:
    """One request as it is handed to the engine."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: RequestParams


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One sampled token of one request, or its end without one. The last event of a request, and only that one, has a
    finish reason."""

    index: int  # which request of its submission
    token_id: int | None = None  # None: the request ended without a further token
    text: str = ""  # what this token made printable; text held back for half a character or a stop string comes later
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None  # the stop token (end of text included) or stop string that matched
    error: str | None = None


class Request:
    """Waiting while it has no slot, running while it has one, finished once it has a finish reason."""

    def __init__(self, submission: Submission, index: int, vocabulary: Vocabulary, arrival_time: float) -> None:
        self.request_id = submission.request_id
        self.index = index
        self.params = submission.params
        self.arrival_time = arrival_time
        self.last_token_time: float | None = None
        self.num_prompt_tokens = len(submission.prompt_token_ids)
        self.token_ids = list(submission.prompt_token_ids)  # prompt, then output
        self.slot: Slot | None = None
        self.num_preemptions = 0
        self.is_decoding = False  # the runner has sampled from this slot, so it knows the last token
        self.finish_reason: FinishReason | None = None
        self._detokenizer = Detokenizer(vocabulary, submission.params.stop)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

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

    def end(self, reason: FinishReason, error: str | None = None) -> TokenEvent:
        """Ends without a further token."""
        assert self.finish_reason is None, "a request ends once"
        self.finish_reason = reason
        return TokenEvent(self.index, text=self._detokenizer.flush(), finish_reason=reason, error=error)

    def _text_of(self, token_id: int) -> tuple[str, int | str | None]:
        """What the token makes printable, and the stop token or stop string that it completes."""
        if token_id in self.params.stop_token_ids:
            return self._detokenizer.flush(), token_id
        may_stop = self.num_output_tokens >= self.params.sampling.min_tokens
        text = self._detokenizer.push(token_id, may_stop=may_stop)
        return text, self._detokenizer.matched
