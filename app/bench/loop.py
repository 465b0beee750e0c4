"""The event loop that load tests run in: the leanest that there is, since the server may share its cores."""

import asyncio
import importlib
import importlib.util
from collections.abc import Coroutine
from typing import Any, TypeVar

ValueT = TypeVar("ValueT")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed: there is none for Windows."""
    library = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
    loop: asyncio.AbstractEventLoop = importlib.import_module(library).new_event_loop()
    return loop


def in_loop(work: Coroutine[Any, Any, ValueT]) -> ValueT:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)
