"""How many requests a minute, and how many tokens, each owner of keys may have: what is charged, and who is sent away
until when. Counts; submits nothing and knows no header.

The counting is the library `limits`': a sliding window of two numbers, what this minute of the clock has had and what
the minute before it had, which fades as this one passes. So an account is as small for a million tokens as for one. All
calls are made on the event loop and none of them waits: between a test and its charge nobody else comes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from app.api.access import Access
from app.api.errors import ExceedsRateLimit
from app.engine.errors import TryAgain

MINUTE = 60
LEAST_WAIT_S = 0.001  # at the very moment at which enough has faded, it is not yet less than it may be

GiveBack = Callable[[int], None]  # what was charged too much


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one owner in one limit, now."""

    limit: int
    remaining: int
    reset_s: float  # until all of it is there again, if nothing more is charged


class MinuteLimit:
    """So much of one thing a minute, for each owner by itself."""

    def __init__(self, limit: int, unit: str, storage: MemoryStorage) -> None:
        self.limit = limit
        self.unit = unit
        self._storage = storage
        self._item = RateLimitItemPerMinute(limit, namespace=unit)
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    def wait_s(self, owner: str, cost: int) -> float:
        """Until `cost`, which is no more than the limit, may be charged; 0: now."""
        if self._limiter.test(self._item, owner, cost=cost):
            return 0.0
        return self._seconds_until_below(self.limit - cost + 1, owner)

    def charge(self, owner: str, cost: int) -> GiveBack:
        """`cost` fits. What is given back is taken from the minute that it was charged to, as if it had never been."""
        _, minute = self._storage.sliding_window_keys(self._item.key_for(owner), MINUTE, time.time())
        self._limiter.hit(self._item, owner, cost=cost)
        return partial(self._give_back, minute)

    def standing(self, owner: str) -> Standing:
        remaining = self._limiter.get_window_stats(self._item, owner).remaining
        return Standing(self.limit, remaining, self._seconds_until_below(1, owner))

    def _give_back(self, minute: str, amount: int) -> None:
        if self._storage.get(minute):  # nothing, once the storage has forgotten it
            self._storage.decr(minute, amount)

    def _seconds_until_below(self, target: int, owner: str) -> float:
        """Until the sum, the earlier minute as far as it has not faded, is below `target`."""
        earlier, fading_s, current, forgotten_s = self._storage.get_sliding_window(self._item.key_for(owner), MINUTE)
        if current >= target:  # it must fade itself, which it begins when the next minute does
            return (forgotten_s - MINUTE) + MINUTE * (1 - target / current) + LEAST_WAIT_S
        if earlier * fading_s / MINUTE + current < target:
            return 0.0
        return fading_s - MINUTE * (target - current) / earlier + LEAST_WAIT_S


class RateLimits:
    """Either limit, or both."""

    def __init__(self, max_requests: int | None, max_tokens: int | None) -> None:
        storage = MemoryStorage()
        self.requests = None if max_requests is None else MinuteLimit(max_requests, "requests", storage)
        self.tokens = None if max_tokens is None else MinuteLimit(max_tokens, "tokens", storage)

    @classmethod
    def of(cls, access: Access) -> Self | None:
        """None: everybody may have as many as they like."""
        limits = access.max_requests_per_minute, access.max_tokens_per_minute
        return None if limits == (None, None) else cls(*limits)

    def require(self, owner: str, num_tokens: int = 0) -> None:
        """That one request more, and so many tokens, are within the limits. Raises TryAgain, or ExceedsRateLimit for
        what never will be."""
        if self.tokens and num_tokens > self.tokens.limit:
            raise ExceedsRateLimit(
                f"The prompt and the most that may be generated have {num_tokens} tokens together; no more than "
                f"{self.tokens.limit} a minute are allowed. Shorten the prompt or ask for fewer tokens."
            )
        costs = ((self.requests, 1), (self.tokens, num_tokens))
        waits = {limit: wait_s for limit, cost in costs if limit and (wait_s := limit.wait_s(owner, cost))}
        if waits:
            limit = max(waits, key=waits.__getitem__)
            raise TryAgain(f"No more than {limit.limit} {limit.unit} a minute are allowed.", waits[limit])

    def charge(self, owner: str, num_tokens: int) -> GiveBack:
        """Both, at once; tokens may be given back."""
        if self.requests:
            self.requests.charge(owner, 1)
        return self.tokens.charge(owner, num_tokens) if self.tokens else lambda _: None
