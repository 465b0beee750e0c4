"""GET /v1/requests: what runs and waits. POST /v1/requests/{id}/cancel: ends it. Each sees its own only: another key's
is as if it were not there."""

from dataclasses import dataclass

from fastapi import APIRouter, Request

from app.api.errors import UnknownRequest
from app.api.schemas.resources import CancelledRequest, LiveRequest, LiveRequests
from app.api.served import ServedModel
from app.engine.engine import Engine

PATH, CANCEL = "/v1/requests", "/v1/requests/{id}/cancel"
ANSWER_PREFIXES = ("cmpl-", "chatcmpl-", "resp_", "msg_")  # before the request's id in the answer's own


@dataclass(frozen=True, slots=True)
class Requests:
    served: ServedModel
    engine: Engine

    def router(self) -> APIRouter:
        router = APIRouter(tags=["operation"])
        router.add_api_route(PATH, self.list, methods=["GET"])
        router.add_api_route(CANCEL, self.cancel, methods=["POST"])
        return router

    async def list(self, request: Request) -> LiveRequests:
        """Yours that run or wait, one entry for each choice of each prompt."""
        views = await self.engine.requests(request.state.owner)
        live = [
            LiveRequest(
                id=view.call_id,
                choice_id=view.request_id,
                state=view.state,
                num_prompt_tokens=view.num_prompt_tokens,
                num_output_tokens=view.num_output_tokens,
                age_s=round(view.age_s, 3),
                deadline_in_s=None if view.deadline_in_s is None else round(view.deadline_in_s, 3),
                priority=view.priority,
                adapter=self.served.adapter_name(view.adapter),
            )
            for view in views
        ]
        return LiveRequests(data=live)

    async def cancel(self, request: Request, id: str) -> CancelledRequest:
        """Ends all choices of the request with this x-request-id, or with an answer of this id; what they have said so
        far is the answer."""
        names = [id, *(id.removeprefix(prefix) for prefix in ANSWER_PREFIXES if id.startswith(prefix))]
        for name in names:
            if number := await self.engine.cancel(name, request.state.owner):
                return CancelledRequest(id=name, num_cancelled=number)
        raise UnknownRequest("No request of this id runs or waits here.")
