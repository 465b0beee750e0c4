"""TokenEvents → the chunks of OpenAI's two streams, completions and chat completions. What never changes in a chunk is
encoded once; what is said in a choice is said by its `Voice`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.api.answers import AnswerPlan, num_tokens, of_prompt, raise_if_failed, timings, usage
from app.api.errors import error_body
from app.api.logprobs import TokenTexts
from app.api.schemas.wire import WireAnswer
from app.engine.request import FinishReason, Timings, TokenEvent

COMPACT = (",", ":")


class Voice(Protocol):
    """One choice of a stream in the words of one API."""

    def delta(self, text: str, is_last: bool) -> str:
        """The JSON members for a chunk that shows `text`, the next of the choice's; empty if there is nothing to show
        yet, which the last call never is."""
        ...

    def logprobs(self, events: Sequence[TokenEvent]) -> WireAnswer:
        """Of the next events, those that no chunk has shown yet."""
        ...

    def finish_reason(self, reason: FinishReason) -> str:
        """Asked behind the last delta."""
        ...


@dataclass(slots=True)
class _Choice:
    voice: Voice
    unsent: list[TokenEvent] = field(default_factory=list)  # of which no chunk has told yet
    is_first: bool = True


class ChunkWriter:
    """Server-sent events of one answer, a `Writer`. What belongs to the prompt stands in the first chunk of each
    choice, or, as chat has it, beside `choices` in the first of choice 0."""

    def __init__(
        self,
        plan: AnswerPlan,
        object_name: str,
        voices: Sequence[Voice],
        texts: TokenTexts,
        *,
        prompt_is_in_choice: bool = True,
    ) -> None:
        self._plan = plan
        self._texts = texts
        self._prompt_is_in_choice = prompt_is_in_choice
        self._choices = [_Choice(voice) for voice in voices]
        self._num_open = len(voices)
        self._num_tokens = 0
        self._timings: list[Timings | None] = []
        self._tells_of_prompt = plan.with_token_ids or plan.num_prompt_logprobs is not None
        self._tells_of_tokens = self._tells_of_prompt or plan.num_logprobs is not None
        head = {"id": plan.id, "object": object_name, "created": plan.created, "model": plan.model}
        head |= {"system_fingerprint": plan.fingerprint}
        self._head = f'data: {json.dumps(head, separators=COMPACT)[:-1]},"choices":['

    @property
    def is_finished(self) -> bool:
        return self._num_open == 0

    def write(self, events: Sequence[TokenEvent]) -> bytes:
        """At most one chunk for each choice; behind the last one, the end of the stream."""
        raise_if_failed(events)
        self._num_tokens += num_tokens(events)
        of_choice: dict[int, list[TokenEvent]] = {}
        for event in events:
            of_choice.setdefault(event.index, []).append(event)
        chunks = [self._chunk(self._choices[index], arrived) for index, arrived in of_choice.items()]
        if self.is_finished:
            chunks.append(self._end())
        return "".join(chunks).encode()

    def error(self, error: Exception) -> bytes:
        return f"data: {json.dumps(error_body(error))}\n\n".encode()

    def _chunk(self, choice: _Choice, arrived: list[TokenEvent]) -> str:
        if self._tells_of_tokens:
            choice.unsent += arrived
        last = arrived[-1]
        delta = choice.voice.delta("".join([event.text for event in arrived]), last.finish_reason is not None)
        if not delta:
            return ""
        of_prompt = self._of_prompt(choice, last.index) if choice.is_first and self._tells_of_prompt else ""
        inside, beside = (of_prompt, "") if self._prompt_is_in_choice else ("", of_prompt)
        choice.is_first = False
        members = f'"index":{last.index},{delta},{self._of_tokens(choice)}{inside},{self._finish(choice, last)}'
        return f"{self._head}{{{members}}}]{beside}{self._tail()}}}\n\n"

    def _of_prompt(self, choice: _Choice, index: int) -> str:
        if index and not self._prompt_is_in_choice:
            return ""
        return "," + to_json(of_prompt(self._plan, choice.unsent, self._texts))[1:-1]

    def _of_tokens(self, choice: _Choice) -> str:
        if not self._tells_of_tokens:
            return '"logprobs":null'
        events, choice.unsent = choice.unsent, []
        logprobs = "null"
        if self._plan.num_logprobs is not None:
            logprobs = to_json(choice.voice.logprobs(events))
        if not self._plan.with_token_ids:
            return f'"logprobs":{logprobs}'
        return f'"logprobs":{logprobs},"token_ids":{[event.token_id for event in events if event.token_id is not None]}'

    def _finish(self, choice: _Choice, last: TokenEvent) -> str:
        if last.finish_reason is None:
            return '"finish_reason":null'
        self._num_open -= 1
        self._timings.append(last.timings)
        stop_reason = json.dumps(None if last.stop_reason in self._plan.eos_token_ids else last.stop_reason)
        return f'"finish_reason":"{choice.voice.finish_reason(last.finish_reason)}","stop_reason":{stop_reason}'

    def _tail(self) -> str:
        """What stands behind the choice: usage, and in the very last chunk the timings."""
        if self._plan.with_running_usage:
            return f',"usage":{self._usage()}'
        if self._plan.with_usage:
            return ',"usage":null'
        return self._final_timings() if self.is_finished else ""

    def _end(self) -> str:
        if not self._plan.with_usage:
            return "data: [DONE]\n\n"
        return f'{self._head}],"usage":{self._usage()}{self._final_timings()}}}\n\ndata: [DONE]\n\n'

    def _usage(self) -> str:
        return usage(self._plan, self._num_tokens).model_dump_json()

    def _final_timings(self) -> str:
        found = timings(self._plan, self._timings, self._num_tokens)
        return f',"timings":{found.model_dump_json()}' if found else ""


def to_json(answer: WireAnswer) -> str:
    """ASCII, as all of a stream is."""
    return json.dumps(answer.model_dump(), separators=COMPACT)
