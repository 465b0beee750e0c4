"""Serves any ASGI app with uvicorn, in a thread, on a free port: for what only a real socket shows."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from app.bounded_http import BoundedHttp
from app.listener import take_address

SECONDS_TO_START = 20
SECONDS_TO_STOP = 20


@dataclass(frozen=True)
class LiveServer:
    host: str
    port: int
    state: ServerState

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def client_ports(self) -> set[int]:
        """Of all connections that there are."""
        return {connection.client[1] for connection in list(self.state.connections) if connection.client}


@contextmanager
def serve(app: ASGIApp, max_connections: int | None = None) -> Iterator[LiveServer]:
    """Ready when it is entered; on leaving, the app's lifespan has ended and the thread with it."""
    with closing(take_address("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app,
            http=BoundedHttp,
            log_level="warning",
            lifespan="on",
            server_header=False,
            limit_concurrency=max_connections,
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="live server")
        thread.start()
        try:
            _wait_until_started(server, thread)
            yield LiveServer(*listener.getsockname(), server.server_state)
        finally:
            server.should_exit = True
            thread.join(SECONDS_TO_STOP)
            assert not thread.is_alive(), "the server does not end"


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while not server.started:
        assert thread.is_alive(), "the server ended while it started"
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.005)
