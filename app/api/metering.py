"""Submits what is within its owner's rate limits, charges it, and gives back the tokens that were not generated.

Charged is what the engine has accepted, and nothing else: the request, its prompts and the most that may be generated.
In the end that is the `total_tokens` of its usage.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.api.rate_limits import GiveBack, RateLimits
from app.api.stream import Events
from app.engine.engine import Engine
from app.engine.request import Submission, TokenEvent
from app.engine.stream import EventStream


@dataclass(frozen=True, slots=True)
class Metering:
    engine: Engine
    limits: RateLimits

    def submit(self, submissions: Sequence[Submission]) -> Events:
        """As Engine.submit; raises TryAgain and ExceedsRateLimit, too. `submissions` have one owner."""
        owner = submissions[0].owner
        most = sum(one.params.max_tokens for one in submissions)
        cost = num_prompt_tokens(submissions) + most
        self.limits.require(owner, cost)
        stream = self.engine.submit(submissions)
        return MeteredEvents(stream, most, self.limits.charge(owner, cost))


def num_prompt_tokens(submissions: Sequence[Submission]) -> int:
    """Each prompt once, as usage counts it: its candidates share it."""
    prompts = {id(one.prompt_token_ids): one.prompt_token_ids for one in submissions}
    return sum(map(len, prompts.values()))


class MeteredEvents:
    """`Events` that are charged for. When they end or are left, what was not generated is given back, once: what a
    client has not read has been computed all the same."""

    def __init__(self, stream: EventStream, num_charged: int, give_back: GiveBack) -> None:
        self._stream = stream
        self._num_charged = num_charged
        self._give_back = give_back
        self._is_settled = False

    async def next(self) -> list[TokenEvent]:
        events = await self._stream.next()
        if self._stream.is_over:
            self._settle()
        return events

    def abort(self) -> None:
        self._stream.abort()
        self._settle()

    def _settle(self) -> None:
        unused = self._num_charged - self._stream.num_tokens
        if unused > 0 and not self._is_settled:
            self._give_back(unused)
        self._is_settled = True
