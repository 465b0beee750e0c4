"""What takes long is done on threads; of long requests, one thing at a time.

Parsing, pydantic and parts of a tokenizer keep the interpreter's lock from their beginning to their end, and all of it
takes a processor from the event loop: half a dozen megabytes at once would hold everybody's streams up.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request

LONG_BODY = 64 * 1024  # bytes

Result = TypeVar("Result")


async def on_a_thread(request: Request, work: Callable[..., Result], *arguments: Any) -> Result:
    """The app has a lock for it: `app.state.long_work`."""
    if len(await request.body()) <= LONG_BODY:
        return await asyncio.to_thread(work, *arguments)
    async with request.app.state.long_work:
        return await asyncio.to_thread(work, *arguments)
