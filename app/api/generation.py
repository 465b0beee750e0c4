"""From a parsed request and its prompts to the response: what all generating routes do alike."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastapi import Request
from starlette.responses import Response

from app.api.answers import AnswerPlan, plan_answer
from app.api.schemas.generation import GenerationRequest
from app.api.served import ServedModel
from app.api.steering import steering_of
from app.api.stream import PING_AFTER_S, Render, StreamedAnswer, Submit, WholeAnswer, Writer
from app.api.submissions import Origin, build_submissions
from app.engine.engine import Engine
from app.engine.grammars.grammar import Grammar
from app.engine.request import Submission


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request as the engine is to run it, and what is known of its answer."""

    plan: AnswerPlan
    submissions: Sequence[Submission]


@dataclass(frozen=True, slots=True)
class Generation:
    served: ServedModel
    engine: Engine
    submit: Submit
    ping_after_s: float = PING_AFTER_S
    max_tokens_per_minute: int | None = None

    def room_for(self, num_prompt_tokens: int, num_candidates: int) -> int:
        """The most tokens that each candidate of a prompt may have, where nobody says how many."""
        room = self.engine.room_for(num_prompt_tokens)
        if self.max_tokens_per_minute is None:
            return room
        return min(room, (self.max_tokens_per_minute - num_prompt_tokens) // num_candidates)

    async def prepare(
        self,
        request: Request,
        body: GenerationRequest,
        prompts: Sequence[Sequence[int]],
        id_prefix: str,
        default_max_tokens: Callable[[int], int],
        tool_grammar: Grammar | None = None,
    ) -> Call:
        """`default_max_tokens` is given a prompt's length; `tool_grammar` stands in for what the body asks for. Raises
        InvalidRequest."""
        steering = await steering_of(body, self.served, tool_grammar)
        origin = Origin(request.state.request_id, request.state.owner)
        submissions = build_submissions(body, prompts, origin, self.served, default_max_tokens, steering)
        plan = plan_answer(f"{id_prefix}-{origin.call_id}", int(time.time()), body, self.served, submissions)
        return Call(plan, submissions)

    def stream(self, call: Call, writer: Writer) -> Response:
        """A response that has yet to submit: the engine hears of it when it is sent."""
        return StreamedAnswer(self.submit, call.submissions, writer, self.ping_after_s)

    def whole(self, call: Call, render: Render) -> Response:
        """Likewise."""
        return WholeAnswer(self.submit, call.submissions, render)
