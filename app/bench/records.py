"""The nouns of a load test: what is asked, what came of it, under which settings, and the figures as JSON has them.

Every time is in seconds of time.perf_counter, counted from the run's start, unless its name says otherwise. Nothing
here measures, sends or prints.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

Endpoint = Literal["completions", "chat"]
Ramp = Literal["linear", "exponential"]

# The figures of one load: the keys of `vllm bench serve`'s result file and ours, as app/bench/metrics.py writes them.
RunResult: TypeAlias = dict[str, Any]


class Failure(StrEnum):
    REFUSED = "refused"  # a status of 400 or more
    UNREACHABLE = "unreachable"  # no connection, or one that was lost before an answer began
    BROKEN = "broken"  # the answer broke off
    NONSENSE = "nonsense"  # the answer is not what the API promises
    NO_USAGE = "no usage"  # an answer without its token counts
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to come. A prompt is text, token ids, or the messages of a chat."""

    number: int
    prompt: str | tuple[int, ...] | tuple[Mapping[str, Any], ...]
    num_prompt_tokens: int | None  # as `usage` is expected to count them; None: not known
    max_tokens: int
    seed: int | None = None
    temperature: float | None = None  # None: the run's
    cancel_after: int | None = None  # hang up after so many pieces of the stream
    keep_text: bool = False  # the record shall have the answer's text


@dataclass(frozen=True, slots=True)
class Record:
    """What came of a request."""

    number: int
    scheduled: float
    sent: float
    first: float | None  # first piece that is not empty; None: there was none, or the answer was not streamed
    ended: float  # the last token; of a failure: when it was known
    prompt_tokens: int = 0  # from usage, as output_tokens
    output_tokens: int = 0
    gaps: tuple[float, ...] = ()  # between the pieces of text
    text: str | None = None
    failure: Failure | None = None
    message: str = ""  # of a failure
    is_cancelled: bool = False
    queue_s: float | None = None  # where the server tells
    prefill_s: float | None = None

    @property
    def is_completed(self) -> bool:
        return self.failure is None and not self.is_cancelled


@dataclass(frozen=True, slots=True)
class RunSettings:
    """One load on one server."""

    base_url: str
    model: str
    endpoint: Endpoint = "completions"
    path: str | None = None  # of the endpoint; None: /v1/completions or /v1/chat/completions
    is_streamed: bool = True
    concurrency: int | None = None  # None: as many at a time as the rate makes
    request_rate: float = float("inf")  # a second; inf: each as soon as the concurrency lets it
    burstiness: float = 1.0  # shape of the gamma distribution; 1: Poisson; inf: evenly spaced
    ramp: Ramp | None = None  # the rate goes from ramp_from to ramp_to
    ramp_from: float = 0.0
    ramp_to: float = 0.0
    num_prompts: int | None = None
    duration: float | None = None  # seconds in which requests are sent
    warmup: int = 0  # requests before the run, which count for nothing
    seed: int = 0
    input_len: int | None = None  # what the prompts were made for, to be told in the result
    output_len: int | None = None
    temperature: float | None = 0.0  # None: the server's own
    ignore_eos: bool = False
    extra_body: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    headers: tuple[tuple[str, str], ...] = ()
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 600.0  # seconds from sending to the end of an answer
    is_verified: bool = True  # the server's certificate
    goodput: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))  # metric → limit in ms
    percentiles: tuple[float, ...] = (50.0, 90.0, 95.0, 99.0)
    label: str | None = None  # the user's name for the run
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def url_path(self) -> str:
        return self.path or ("/v1/chat/completions" if self.endpoint == "chat" else "/v1/completions")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, some times a second."""

    elapsed: float
    sent: int
    completed: int
    failed: int
    in_flight: int
    held: int  # due, but held back by --max-concurrency
    output_pieces: int  # of streams; about as many as tokens
    pieces_per_s: float  # lately
    share_done: float | None  # 0 to 1; None where nothing says when it ends
