"""How much memory the KV cache may take, for every backend. Asks the system; allocates nothing."""

from dataclasses import dataclass
from pathlib import Path

import psutil

from model.batch import num_blocks_for
from model.cgroup import ControlGroups
from model.errors import ModelError

SHARE_OF_FREE = 0.5  # the rest is for activations, the program, and whatever else runs on the machine


def free_memory(groups: ControlGroups | None = None) -> int:
    """Bytes of main memory that this process could still take: the system's, or its container's where that is less."""
    available = int(psutil.virtual_memory().available)
    headroom = (groups or ControlGroups()).free_memory()
    return available if headroom is None else min(available, headroom)


@dataclass(frozen=True, slots=True)
class KVDemand:
    """What the KV cache would be at its fullest."""

    block_size: int  # positions
    block_bytes: int
    max_num_seqs: int
    max_model_len: int  # tokens
    num_weight_bytes: int = 0  # in memory already, beside it

    @property
    def num_blocks(self) -> int:
        return self.max_num_seqs * num_blocks_for(self.max_model_len, self.block_size)


def require_room_for_weights(path: Path, num_bytes: int, free_bytes: int) -> None:
    """Raises ModelError where the weights alone are more than what is free: before they are read, for the system would
    end the process in the middle of that without a word."""
    if num_bytes > free_bytes:
        raise ModelError(
            path,
            f"its weights take {num_bytes:,} bytes of memory, {num_bytes - free_bytes:,} more than the "
            f"{free_bytes:,} that are free. A smaller quantisation of the model may fit, or --weights int8 or int4 "
            "where its weights are floats.",
        )


def choose_num_blocks(path: Path, demand: KVDemand, free_bytes: int, limit: int | None) -> int:
    """Blocks in `limit` bytes (None: in half of `free_bytes`), but never more than could be used. Raises ModelError,
    naming the model at `path`, where not even one block fits, or the limit is more than what is free."""
    if limit is not None and limit > free_bytes:
        raise ModelError(path, _too_much(demand, free_bytes, limit))
    allowed = int(free_bytes * SHARE_OF_FREE) if limit is None else limit
    num_blocks = min(allowed // demand.block_bytes, demand.num_blocks)
    if num_blocks < 1:
        source = f"half of the {free_bytes:,} bytes that are free" if limit is None else "what --kv-cache-memory allows"
        raise ModelError(
            path,
            f"the KV cache has room for no request: one block of {demand.block_size} positions takes "
            f"{demand.block_bytes:,} bytes, and {allowed:,} bytes ({source}) hold none.",
        )
    return num_blocks


def _too_much(demand: KVDemand, free_bytes: int, limit: int) -> str:
    num_blocks, token_bytes = free_bytes // demand.block_bytes, demand.block_bytes // demand.block_size
    whole = demand.num_blocks * demand.block_bytes
    return (
        f"--kv-cache-memory asks for {limit:,} bytes, and {free_bytes:,} are free: the weights "
        f"have taken {demand.num_weight_bytes:,} already. A token takes {token_bytes:,} bytes, a block of "
        f"{demand.block_size} tokens {demand.block_bytes:,}: what is free holds {num_blocks:,} blocks, "
        f"{num_blocks * demand.block_size:,} tokens, and --max-num-seqs {demand.max_num_seqs} requests of "
        f"{demand.max_model_len:,} tokens would fill {whole:,} bytes. Give --kv-cache-memory at most what is free, "
        f"or leave it out for {SHARE_OF_FREE:.0%} of that, which is the default."
    )
