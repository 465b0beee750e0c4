"""What there is room for: how many tokens a running request can be fed in a step, and whether one more may run. Rules
on integers, which change nothing."""

from collections.abc import Iterable

from app.engine.choice import Choice
from app.engine.request import Request
from app.engine.slots import SlotTable
from model.batch import num_blocks_for


def num_tokens_now(request: Request, choice: Choice | None, prefill_budget: int) -> int:
    """Tokens that a running request can be fed in this step. Without its mask, all but the one that samples."""
    is_ready = choice is None or choice.is_ready
    if request.is_decoding:
        return int(is_ready)
    assert request.slot is not None
    num_pending = len(request.token_ids) - request.slot.num_tokens
    if request.samples and not is_ready:
        num_pending -= 1
    return min(num_pending, prefill_budget)


def next_in_turn(waiting: Iterable[Request], *, only_begun: bool) -> Request | None:
    """The first that may have a slot. `only_begun`: of those that had one and were set back."""
    return next((request for request in waiting if not only_begun or request.admission_time is not None), None)


def can_admit(request: Request, running: Iterable[Request], slots: SlotTable) -> bool:
    """Room for all tokens of a waiting request and the next, besides what running prefills still need and one more
    block for each running request: an admission must not cause the next preemption."""
    if not slots.num_free_slots:
        return False
    num_tokens = len(request.token_ids) + request.samples
    promised = sum(_num_promised(other, slots) for other in running)
    return num_blocks_for(num_tokens, slots.block_size) + promised <= slots.num_free_blocks


def _num_promised(request: Request, slots: SlotTable) -> int:
    assert request.slot is not None
    return slots.num_missing(request.slot, len(request.token_ids)) + 1
