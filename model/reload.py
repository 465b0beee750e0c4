"""Other weights for a model that is served: read, checked to be of the same shape, computed with once. The tokenizer
and the chat template stay those of the start. The model that is served is not touched: for a while both are in memory.
"""

from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from model.backends import build_runner
from model.batch import Runner, RunnerInfo
from model.config import ModelConfig
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint
from model.load import find_model, merge_adapter, read_adapters, read_checkpoint, with_rope_scaling
from model.options import LoadOptions
from model.self_test import warm_up

FREE = ("architecture", "tie_word_embeddings")  # the one is for people; a tied head is one like any other


@dataclass(frozen=True, slots=True)
class NewWeights:
    runner: Runner
    digest: str  # of the numbers, as the file has them


def load_weights(path: Path, config: ModelConfig, info: RunnerInfo, options: LoadOptions) -> NewWeights:
    """`config` and `info` are of the model that is served, which was loaded with `options`. Raises ModelError for what
    is no model, is of another shape, does not fit into the memory beside the other, or does not compute."""
    checkpoint = merge_adapter(with_rope_scaling(read_checkpoint(find_model(path)), options), options)
    require_same_config(checkpoint, config)
    runner = build_runner(checkpoint, _as_served(options, info), read_adapters(checkpoint, options))
    warm_up(checkpoint.path, runner, options.max_num_seqs, options.max_num_batched_tokens)
    return NewWeights(runner, digest_of(checkpoint))


def require_same_config(checkpoint: Checkpoint, served: ModelConfig) -> None:
    """But for what is FREE. Raises ModelError."""
    for field in fields(ModelConfig):
        before, after = getattr(served, field.name), getattr(checkpoint.config, field.name)
        if field.name not in FREE and before != after:
            raise ModelError(checkpoint.path, f"{field.name} is {after}, but {before} in the model that is served.")


def digest_of(checkpoint: Checkpoint) -> str:
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(checkpoint.weights.items()):
        digest.update(f"{name} {tensor.shape} {tensor.encoding}\n".encode())
        digest.update(np.ascontiguousarray(tensor.data).reshape(-1).data)
    return digest.hexdigest()


def _as_served(options: LoadOptions, info: RunnerInfo) -> LoadOptions:
    """What was decided at the start is not decided anew by what is free now."""
    return replace(
        options,
        num_threads=info.num_threads,
        max_model_len=info.max_model_len,
        kv_cache_memory=info.num_blocks * info.block_bytes,
    )
