"""Queries and keys whose rotary pairs lie side by side in their files, brought into the half-split order of
`RopeConfig`, so that one kernel rotates every model."""

from collections.abc import Mapping
from dataclasses import replace

from model.config import ModelConfig
from model.errors import ModelError
from model.formats.checkpoint import WeightTensor


def half_split(weights: Mapping[str, WeightTensor], config: ModelConfig) -> dict[str, WeightTensor]:
    """By canonical name, of the shapes that the config asks for. The rows of a head, in the files 0, D/2, 1, D/2 + 1, …
    of the order wanted, are moved as they are, in any encoding; biases' numbers, too."""
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
    return {
        name: _unpaired(tensor, heads[part]) if (part := name.split(".")[-2]) in heads else tensor
        for name, tensor in weights.items()
    }


def _unpaired(tensor: WeightTensor, num_heads: int) -> WeightTensor:
    num_rows = tensor.shape[0]
    if tensor.data.size % num_rows:
        raise ModelError(
            tensor.path,
            f"tensor '{tensor.file_name}' is a bias encoded as {tensor.encoding}; F32, F16 or BF16 is needed.",
        )
    pairs = tensor.data.reshape(num_heads, num_rows // num_heads // 2, 2, -1)  # H, D/2, the two of a pair, bytes
    return replace(tensor, data=pairs.swapaxes(1, 2).reshape(tensor.data.shape))
