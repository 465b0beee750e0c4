"""The smaller resources on the wire: models, slots, live requests, version, health."""

from typing import Literal

from app.api.schemas.wire import WireAnswer


class Model(WireAnswer):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "slotwise"
    root: str
    parent: str | None  # of an adapter: the model that it is for
    max_model_len: int


class ModelList(WireAnswer):
    object: Literal["list"] = "list"
    data: list[Model]


class Blocks(WireAnswer):
    used: int
    total: int
    block_size: int  # token positions


class LiveSlot(WireAnswer):
    id: int
    request_id: str
    phase: str  # "prefill" or "decode"
    num_tokens: int
    num_blocks: int
    bytes: int
    age_s: float
    adapter: str | None


class Slots(WireAnswer):
    num_slots: int
    blocks: Blocks
    slots: list[LiveSlot]


class LiveRequest(WireAnswer):
    id: str  # by which it is cancelled: the x-request-id, which several choices share
    choice_id: str
    object: Literal["request"] = "request"
    state: str  # "queued", "prefill" or "decode"
    num_prompt_tokens: int
    num_output_tokens: int
    age_s: float
    deadline_in_s: float | None  # where the request has a timeout
    priority: int
    adapter: str | None


class LiveRequests(WireAnswer):
    object: Literal["list"] = "list"
    data: list[LiveRequest]


class CancelledRequest(WireAnswer):
    id: str
    object: Literal["request.cancelled"] = "request.cancelled"
    num_cancelled: int  # choices that had not ended yet


class Version(WireAnswer):
    version: str
    model: str
    system_fingerprint: str  # as in answers
    backend: str
    device: str
    instruction_set: str | None
    num_threads: int
    weights: str
    kv_cache: str
    batch_invariant: bool | None  # as the self-test found at the start; null: it did not come to an end
    batch_invariance_remark: str | None  # what differed, or was not tested
    max_model_len: int
    python: str
    platform: str


class Health(WireAnswer):
    status: Literal["ok"] = "ok"
