"""Sees an engine that makes no progress: a step that never returns, which no exception tells of."""

import logging
import threading
from collections.abc import Callable
from typing import Self

logger = logging.getLogger(__name__)

INTERVAL_S = 0.5  # between two looks


class Watchdog:
    """Looks again and again, on a thread of its own, at how far the engine has come; None stands for one that waits for
    work. Where `num_looks` in a row show the same, it calls `on_stuck`, and has done its duty.

    It counts looks and not seconds: a computer that slept for an hour has an engine that did nothing for one look.
    """

    def __init__(
        self,
        progress: Callable[[], int | None],
        on_stuck: Callable[[], None],
        patience_s: float,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._progress = progress
        self._on_stuck = on_stuck
        self._interval_s = interval_s
        self._num_looks = max(2, round(patience_s / interval_s))
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()

    def _watch(self) -> None:
        seen, num_same = self._progress(), 1
        while num_same < self._num_looks:
            if self._is_over.wait(self._interval_s):
                return
            now = self._progress()
            num_same = num_same + 1 if now is not None and now == seen else 1
            seen = now
        logger.critical("the engine has made no progress for %d looks, %.1f s apart", num_same, self._interval_s)
        self._on_stuck()
