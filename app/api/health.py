"""GET /health/live: the process answers. GET /health/ready and /health: the engine takes requests. Need no API key."""

from dataclasses import dataclass

from fastapi import APIRouter

from app.api.schemas.resources import Health
from app.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class HealthChecks:
    engine: Engine

    def router(self) -> APIRouter:
        router = APIRouter(tags=["operation"])
        router.add_api_route("/health/live", self.live, methods=["GET"])
        router.add_api_route("/health/ready", self.ready, methods=["GET"])
        router.add_api_route("/health", self.ready, methods=["GET"], operation_id="health")
        return router

    async def live(self) -> Health:
        return Health()

    async def ready(self) -> Health:
        self.engine.raise_if_not_ready()
        return Health()
