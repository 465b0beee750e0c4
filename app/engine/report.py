"""What the engine did, in figures and views: it hands them to whoever counts or shows, and keeps no count itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.engine.request import FinishReason
from app.engine.scheduler import Emission, Scheduler


@dataclass(frozen=True, slots=True)
class StepReport:
    """Levels after a step (or after the queue changed without one), and what happened. Times in seconds."""

    num_running: int
    num_waiting: int
    blocks_used: int
    num_blocks: int
    num_preemptions: int  # since the start
    step_seconds: float | None = None  # None: no step, only the queue changed
    num_prompt_tokens: int = 0  # of prompts whose first token came: once each, however often they were computed
    num_generated_tokens: int = 0
    queue_seconds: tuple[float, ...] = ()  # of requests that were given their first slot
    ttft_seconds: tuple[float, ...] = ()
    inter_token_seconds: tuple[float, ...] = ()
    finished: tuple[FinishReason, ...] = ()


@dataclass(frozen=True, slots=True)
class StepTimes:
    started: float
    ended: float
    queue_seconds: tuple[float, ...]


def report(scheduler: Scheduler, emissions: Sequence[Emission], times: StepTimes | None = None) -> StepReport:
    """The levels of `scheduler` now and what `emissions` amount to; moves the token clocks of their requests on."""
    sampled = [emission.request for emission in emissions if emission.event.token_id is not None]
    first = [request for request in sampled if request.last_token_time is None]
    now = times.ended if times else 0.0
    figures = StepReport(
        num_running=len(scheduler.running),
        num_waiting=len(scheduler.waiting),
        blocks_used=scheduler.slots.num_used_blocks,
        num_blocks=scheduler.slots.num_blocks,
        num_preemptions=scheduler.num_preemptions,
        step_seconds=times.ended - times.started if times else None,
        num_prompt_tokens=sum(request.num_prompt_tokens for request in first),
        num_generated_tokens=len(sampled),
        queue_seconds=times.queue_seconds if times else (),
        ttft_seconds=tuple(now - request.arrival_time for request in first),
        inter_token_seconds=tuple(now - request.last_token_time for request in sampled if request.last_token_time),
        finished=tuple(emission.event.finish_reason for emission in emissions if emission.event.finish_reason),
    )
    for request in sampled:
        request.last_token_time = now
    return figures


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
        views.append(SlotView(slot.slot, slot.owner, phase, slot.num_tokens, num_blocks, num_blocks * block_bytes, age))
    table = scheduler.slots
    return SlotsSnapshot(table.num_slots, table.block_size, table.num_blocks, table.num_used_blocks, tuple(views))
