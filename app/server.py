"""uvicorn, with this server's way of ending: from the inside out. After SIGTERM what was accepted may finish; then
whatever is still open has its last event, the responses carry it to their clients, and the connections close. What is
served is not known here."""

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import psutil
import uvicorn

from app.bounded_http import MAX_REFUSED, BoundedHttp

logger = logging.getLogger(__name__)

SECONDS_TO_END = 8  # after the drain, whatever happens: a step that never returns does not keep the process
SECONDS_TO_CLOSE = 3  # for clients to take what is on its way to them once everything has ended
SECONDS_KEPT_ALIVE = 75  # of an idle connection: longer than proxies keep theirs, so that it is they who close
MAX_CONNECTIONS = 4096
DESCRIPTORS_KEPT = 128 + MAX_REFUSED  # for everything else, and for those that are told to come again


class Server(uvicorn.Server):
    """Ends when a signal comes or when `failed` is set. `on_ready` is called once clients are let in. After SIGTERM
    `drain` is awaited, while the server still answers; then `stop` is called, which may block."""

    def __init__(
        self,
        app: Any,
        failed: threading.Event,
        on_ready: Callable[[], None],
        drain: Callable[[], Awaitable[None]],
        stop: Callable[[], None],
    ) -> None:
        config = uvicorn.Config(
            app,
            http=BoundedHttp,
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=max_connections(),
            timeout_keep_alive=SECONDS_KEPT_ALIVE,
            timeout_graceful_shutdown=SECONDS_TO_CLOSE,
        )
        super().__init__(config)
        self._failed = failed
        self._on_ready = on_ready
        self._drain = drain
        self._stop = stop
        self._drains = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._failed.is_set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._drains:
            await self._drain()
        limit = threading.Timer(SECONDS_TO_END, _give_up)
        limit.daemon = True
        limit.start()
        await asyncio.to_thread(self._stop)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """The first signal ends everything in order, SIGTERM with patience; the second at once. (uvicorn's own would
        raise the signal again at the end, which makes an orderly end look like a crash.)"""
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True
        self._drains = sig == signal.SIGTERM


def max_connections() -> int:
    """As the system lets this process have them (`ulimit -n`), but for Windows and macOS, where psutil cannot tell."""
    if not hasattr(psutil, "RLIMIT_NOFILE"):
        return MAX_CONNECTIONS
    num_descriptors, _ = psutil.Process().rlimit(psutil.RLIMIT_NOFILE)
    unlimited = num_descriptors == psutil.RLIM_INFINITY
    return MAX_CONNECTIONS if unlimited else max(1, min(MAX_CONNECTIONS, num_descriptors - DESCRIPTORS_KEPT))


def _give_up() -> None:
    logger.critical("the server does not come to its end within %d seconds; it is cut off", SECONDS_TO_END)
    os._exit(1)
