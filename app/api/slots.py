"""GET /slots: every live KV cache slot and its blocks, between two steps of the engine. No prompt, no text."""

from dataclasses import dataclass

from fastapi import APIRouter

from app.api.schemas.resources import Blocks, LiveSlot, Slots
from app.api.served import ServedModel
from app.engine.engine import Engine
from app.engine.report import SlotView


@dataclass(frozen=True, slots=True)
class SlotViews:
    served: ServedModel
    engine: Engine

    def router(self) -> APIRouter:
        router = APIRouter(tags=["operation"])
        router.add_api_route("/slots", self.list, methods=["GET"])
        return router

    async def list(self) -> Slots:
        seen = await self.engine.slots()
        return Slots(
            num_slots=seen.num_slots,
            blocks=Blocks(used=seen.blocks_used, total=seen.num_blocks, block_size=seen.block_size),
            slots=[_live_slot(view, self.served) for view in seen.slots],
        )


def _live_slot(view: SlotView, served: ServedModel) -> LiveSlot:
    return LiveSlot(
        id=view.slot,
        request_id=view.request_id,
        phase=view.phase,
        num_tokens=view.num_tokens,
        num_blocks=view.num_blocks,
        bytes=view.num_bytes,
        age_s=round(view.age_s, 3),
        adapter=served.adapter_name(view.adapter),
    )
