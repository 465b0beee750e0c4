"""The threads that compute constraints' masks beside the steps. They touch nothing but the constraint."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from app.engine.errors import ConstraintFailed
from app.engine.request import Constraint, Request

logger = logging.getLogger(__name__)

_NUM_THREADS = 4  # started when there is a constraint; one that takes long leaves the others theirs


class MaskThreads:
    """`deliver` gets each mask, or what the constraint raised instead, on whatever thread it came to be."""

    def __init__(self, deliver: Callable[[Request, Future[bytes]], None]) -> None:
        self._pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="masks")
        self._deliver = deliver

    def ask(self, request: Request, token_id: int | None) -> None:
        """The mask of the token behind `token_id`, or of the first. Not again before that one has come."""
        constraint = request.params.constraint
        assert constraint is not None
        future = self._pool.submit(_next_mask, constraint, token_id)
        future.add_done_callback(partial(self._deliver, request))

    def close(self) -> None:
        """Starts no more; what is being computed is nobody's any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _next_mask(constraint: Constraint, token_id: int | None) -> bytes:
    if token_id is not None:
        constraint.accept(token_id)
    return constraint.allowed()


def failure(error: BaseException) -> str:
    """What a client hears of a constraint that raised: its own words if they are meant for it."""
    if isinstance(error, ConstraintFailed):
        return str(error)
    logger.error("a constraint failed", exc_info=error)
    return f"The constraint failed: {type(error).__name__}."
