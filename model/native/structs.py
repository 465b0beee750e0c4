"""The structs and enums of `src/slotwise.h`, field for field. Pointers are plain addresses: whoever fills one keeps
alive what it points to until the call is over."""

import ctypes
from ctypes import c_double, c_float, c_int32, c_int64, c_uint64, c_void_p
from dataclasses import dataclass
from enum import IntEnum


class Encoding(IntEnum):
    """How the library keeps a matrix."""

    F32 = 0
    BF16 = 1
    Q8 = 2
    Q4_0 = 3
    Q4_1 = 4


class Role(IntEnum):
    """What a tensor is."""

    EMBEDDING = 0
    FINAL_NORM = 1
    LM_HEAD = 2
    ATTENTION_NORM = 3
    Q = 4
    K = 5
    V = 6
    O = 7  # noqa: E741
    Q_NORM = 8
    K_NORM = 9
    MLP_NORM = 10
    GATE = 11
    UP = 12
    DOWN = 13
    ROUTER = 14


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor belongs."""

    role: Role
    layer: int = 0
    expert: int = 0


class KVType(IntEnum):
    F32 = 0
    BF16 = 1
    INT8 = 2


class RowError(IntEnum):
    OK = 0
    NOT_FINITE = 1
    NO_CHOICE = 2
    NOT_ISOLATED = 3


class Checks(IntEnum):
    """How isolation is checked."""

    OFF = 0
    CANARY = 1
    DEBUG = 2


class ConfigStruct(ctypes.Structure):
    _fields_ = (
        ("vocab_size", c_int32),
        ("hidden_size", c_int32),
        ("intermediate_size", c_int32),
        ("num_layers", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("num_experts", c_int32),
        ("num_experts_per_token", c_int32),
        ("num_shared_experts", c_int32),
        ("expert_intermediate_size", c_int32),
        ("norm_topk_prob", c_int32),
        ("qk_norm", c_int32),
        ("rms_norm_eps", c_float),
        ("rope_scale", c_float),
        ("rope_inverse", c_void_p),
        ("is_moe_layer", c_void_p),
    )


class RunnerOptionsStruct(ctypes.Structure):
    _fields_ = (
        ("kv_type", c_int32),
        ("num_blocks", c_int32),
        ("num_threads", c_int32),
        ("max_num_tokens", c_int32),
        ("poison", c_int32),
        ("pin", c_int32),
        ("checks", c_int32),
    )


class BiasStruct(ctypes.Structure):
    _fields_ = (("token_id", c_int32), ("amount", c_float))


class SamplingStruct(ctypes.Structure):
    _fields_ = (
        ("seed", c_uint64),
        ("typical_p", c_double),
        ("top_n_sigma", c_double),
        ("xtc_probability", c_double),
        ("xtc_threshold", c_double),
        ("temperature", c_float),
        ("top_p", c_float),
        ("min_p", c_float),
        ("repetition_penalty", c_float),
        ("presence_penalty", c_float),
        ("frequency_penalty", c_float),
        ("top_k", c_int32),
        ("num_logprobs", c_int32),
        ("num_prompt_logprobs", c_int32),
        ("min_tokens", c_int32),
        ("num_suppressed", c_int32),
        ("num_biases", c_int32),
        ("suppressed", c_void_p),
        ("biases", c_void_p),
    )


class OpenedStruct(ctypes.Structure):
    _fields_ = (
        ("slot", c_int32),
        ("num_prompt_tokens", c_int32),
        ("pools", c_int32),
        ("adapter", c_int32),
        ("generation", c_int64),
        ("sampling", SamplingStruct),
    )


class BlocksStruct(ctypes.Structure):
    _fields_ = (("slot", c_int32), ("num_blocks", c_int32), ("block_ids", c_void_p))


class ChunkStruct(ctypes.Structure):
    _fields_ = (
        ("slot", c_int32),
        ("num_tokens", c_int32),
        ("samples", c_int32),
        ("token_ids", c_void_p),
        ("allowed", c_void_p),
        ("biases", c_void_p),
        ("targets", c_void_p),
        ("num_allowed", c_int32),
        ("num_biases", c_int32),
        ("num_targets", c_int32),
    )


class BatchStruct(ctypes.Structure):
    _fields_ = (
        ("freed", c_void_p),
        ("num_freed", c_int32),
        ("opened", c_void_p),
        ("num_opened", c_int32),
        ("grown", c_void_p),
        ("num_grown", c_int32),
        ("chunks", c_void_p),
        ("num_chunks", c_int32),
    )


class ResultStruct(ctypes.Structure):
    _fields_ = (
        ("token_id", c_int32),
        ("error", c_int32),
        ("logprob", c_float),
        ("num_top", c_int32),
        ("top_ids", c_void_p),
        ("top_logprobs", c_void_p),
        ("target_logprobs", c_void_p),
        ("target_top_ids", c_void_p),
        ("target_top_logprobs", c_void_p),
        ("pooled", c_void_p),
        ("num_target_top", c_int32),
        ("is_pooled", c_int32),
    )


class StampStruct(ctypes.Structure):
    _fields_ = (
        ("mark", c_int64),
        ("generation", c_int64),
        ("slot", c_int64),
        ("index", c_int64),
        ("block_id", c_int64),
    )


class ViolationStruct(ctypes.Structure):
    _fields_ = (
        ("kind", c_int32),
        ("slot", c_int32),
        ("index", c_int32),
        ("block_id", c_int32),
        ("expected", StampStruct),
        ("found", StampStruct),
    )


STRUCTS: dict[str, type[ctypes.Structure]] = {
    "sw_config": ConfigStruct,
    "sw_runner_options": RunnerOptionsStruct,
    "sw_bias": BiasStruct,
    "sw_sampling": SamplingStruct,
    "sw_opened": OpenedStruct,
    "sw_blocks": BlocksStruct,
    "sw_chunk": ChunkStruct,
    "sw_batch": BatchStruct,
    "sw_result": ResultStruct,
    "sw_stamp": StampStruct,
    "sw_violation": ViolationStruct,
}
