"""What the engine did, in figures and views: it hands them to whoever counts or shows, and keeps no count itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.engine.request import Emission, FinishReason, Request, TokenEvent
from app.engine.scheduler import Scheduler
from model.batch import NOT_ISOLATED


@dataclass(frozen=True, slots=True)
class StepReport:
    """Levels after a step (or after the queue changed without one), and what happened. Times in seconds."""

    num_running: int
    num_waiting: int
    blocks_used: int
    num_blocks: int
    num_preemptions: int  # since the start
    step_seconds: float | None = None  # None: no step, only the queue changed
    num_prompt_tokens: int = 0  # of prompts that were read to their end: once each, however often they were computed
    num_generated_tokens: int = 0
    queue_seconds: tuple[float, ...] = ()  # of requests that were given their first slot
    ttft_seconds: tuple[float, ...] = ()
    inter_token_seconds: tuple[float, ...] = ()
    finished: tuple[FinishReason, ...] = ()
    num_not_isolated: int = 0  # of those, requests that an isolation check has ended


@dataclass(frozen=True, slots=True)
class StepTimes:
    started: float
    ended: float


def report(
    scheduler: Scheduler,
    emissions: Sequence[Emission],
    times: StepTimes | None = None,
    queue_seconds: tuple[float, ...] = (),
) -> StepReport:
    """The levels of `scheduler` now and what `emissions` amount to; moves the token clocks of their requests on."""
    sampled = [emission.request for emission in emissions if emission.event.token_id is not None]
    first = [request for request in sampled if request.last_token_time is None]
    ended = [emission for emission in emissions if emission.event.finish_reason is not None]
    only_read = [request for request, event in ended if _is_only_read(event)]
    now = times.ended if times else 0.0
    figures = StepReport(
        num_running=len(scheduler.running),
        num_waiting=len(scheduler.waiting),
        blocks_used=scheduler.slots.num_used_blocks,
        num_blocks=scheduler.slots.num_blocks,
        num_preemptions=scheduler.num_preemptions,
        step_seconds=times.ended - times.started if times else None,
        num_prompt_tokens=sum(request.num_prompt_tokens for request in [*first, *only_read]),
        num_generated_tokens=len(sampled),
        queue_seconds=queue_seconds,
        ttft_seconds=tuple(now - request.arrival_time for request in first),
        inter_token_seconds=tuple(now - request.last_token_time for request in sampled if request.last_token_time),
        finished=tuple(event.finish_reason for _, event in ended if event.finish_reason),
        num_not_isolated=sum(event.error == NOT_ISOLATED for _, event in ended),
    )
    for request in sampled:
        request.last_token_time = now
    return figures


def _is_only_read(event: TokenEvent) -> bool:
    """Whether it ends a request that wanted its prompt read, and no tokens."""
    return event.finish_reason is FinishReason.LENGTH and event.token_id is None and event.stop_reason is None


@dataclass(frozen=True, slots=True)
class SlotView:
    """One live slot as an operator may see it: no prompt, no text."""

    slot: int
    request_id: str
    phase: str  # "prefill" or "decode"
    num_tokens: int
    num_blocks: int
    num_bytes: int
    age_s: float  # since the request arrived
    adapter: int = 0  # as in OpenedSlot


@dataclass(frozen=True, slots=True)
class SlotsSnapshot:
    """All slots between two steps: the blocks of the views sum up to `blocks_used`."""

    num_slots: int
    block_size: int
    num_blocks: int
    blocks_used: int
    slots: tuple[SlotView, ...]


def snapshot(scheduler: Scheduler, block_bytes: int, now: float) -> SlotsSnapshot:
    views = []
    for request in scheduler.running:
        slot = request.slot
        assert slot is not None
        phase = "decode" if request.is_decoding else "prefill"
        num_blocks, age = len(slot.block_ids), now - request.arrival_time
        sizes = slot.num_tokens, num_blocks, num_blocks * block_bytes
        views.append(SlotView(slot.slot, slot.owner, phase, *sizes, age, request.params.adapter))
    table = scheduler.slots
    return SlotsSnapshot(table.num_slots, table.block_size, table.num_blocks, table.num_used_blocks, tuple(views))


@dataclass(frozen=True, slots=True)
class RequestView:
    """One open request as its owner may see it."""

    call_id: str
    request_id: str
    state: str  # "queued" (set back for want of blocks, too), "prefill" or "decode"
    num_prompt_tokens: int
    num_output_tokens: int
    age_s: float  # since it arrived
    deadline_in_s: float | None
    priority: int
    adapter: int = 0  # as in OpenedSlot


def views_of(scheduler: Scheduler, owner: str, now: float) -> tuple[RequestView, ...]:
    """Of the owner's requests, in the order of their turns; those that run first."""
    requests = [request for request in (*scheduler.running, *scheduler.waiting) if request.owner == owner]
    return tuple(_view(request, now) for request in requests)


def _view(request: Request, now: float) -> RequestView:
    phase = "decode" if request.is_decoding else "prefill"
    return RequestView(
        call_id=request.call_id,
        request_id=request.request_id,
        state="queued" if request.slot is None else phase,
        num_prompt_tokens=request.num_prompt_tokens,
        num_output_tokens=request.num_output_tokens,
        age_s=now - request.arrival_time,
        deadline_in_s=None if math.isinf(request.deadline) else max(0.0, request.deadline - now),
        priority=request.params.priority,
        adapter=request.params.adapter,
    )
