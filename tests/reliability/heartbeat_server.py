"""The `slotwise` command with a heartbeat on its event loop: a task that is due every millisecond, and how long after
its last time it really came. GET /heartbeat answers with these gaps since it was last asked: doubles, in seconds.

python -m tests.reliability.heartbeat_server serve --port 0 …
"""

import asyncio
import sys
import time
from array import array
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Response

import app.main
from app.cli import main

INTERVAL_S = 0.001


class Heartbeat:
    def __init__(self) -> None:
        self._gaps = array("d")

    async def beat(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(INTERVAL_S)
            now = time.perf_counter()
            self._gaps.append(now - last)
            last = now

    async def take(self) -> Response:
        gaps, self._gaps = self._gaps, array("d")
        return Response(gaps.tobytes(), media_type="application/octet-stream")


create_app = app.main.create_app


def with_heartbeat(*arguments: Any) -> FastAPI:
    api = create_app(*arguments)
    heartbeat, lifespan = Heartbeat(), api.router.lifespan_context

    @asynccontextmanager
    async def beating(asgi: FastAPI) -> AsyncGenerator[None]:
        async with lifespan(asgi):
            beats = asyncio.create_task(heartbeat.beat())
            yield
            beats.cancel()

    api.router.lifespan_context = beating
    api.add_api_route("/heartbeat", heartbeat.take, methods=["GET"])
    return api


if __name__ == "__main__":
    app.main.create_app = with_heartbeat
    sys.exit(main(sys.argv[1:]))
