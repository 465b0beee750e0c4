"""From a parsed request and its prompts to the response: what completions and chat do alike."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastapi import Request
from starlette.responses import Response

from app.api.answers import AnswerFormat, plan_answer
from app.api.schemas.generation import GenerationRequest
from app.api.served import ServedModel
from app.api.stream import PING_AFTER_S, ChunkWriter, StreamedAnswer, WholeAnswer
from app.api.submissions import build_submissions, check_prompts
from app.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class Generation:
    served: ServedModel
    engine: Engine
    ping_after_s: float = PING_AFTER_S

    def respond(
        self,
        request: Request,
        body: GenerationRequest,
        prompts: Sequence[Sequence[int]],
        answer_format: AnswerFormat,
        default_max_tokens: Callable[[int], int],
    ) -> Response:
        """A response that has yet to submit: the engine hears of it when it is sent. Raises InvalidRequest."""
        check_prompts(prompts, self.served)
        request_id: str = request.state.request_id
        submissions = build_submissions(body, prompts, request_id, self.served, default_max_tokens)
        answer_id = f"{answer_format.id_prefix}-{request_id}"
        plan = plan_answer(answer_id, int(time.time()), body, self.served, submissions)
        if body.stream:
            return StreamedAnswer(self.engine, submissions, ChunkWriter(plan, answer_format), self.ping_after_s)
        return WholeAnswer(self.engine, submissions, plan, answer_format)
