from dataclasses import replace

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from model.errors import ModelError
from model.formats.checkpoint import Checkpoint, WeightTensor
from model.torch_backend.layers import MixtureOfExperts
from model.torch_backend.weights import build_transformer
from tests.model.random_checkpoint import LLAMA, QWEN2, QWEN3, QWEN3_MOE, random_checkpoint

CPU = torch.device("cpu")
EMBEDDING = "model.embed_tokens.weight"
KEYS = "model.layers.1.self_attn.k_proj.weight"


def with_tensor(checkpoint: Checkpoint, name: str, tensor: WeightTensor) -> Checkpoint:
    return replace(checkpoint, weights={**checkpoint.weights, name: tensor})


def encoded(tensor: WeightTensor, encoding: str) -> WeightTensor:
    data = quants.quantize(tensor.to_float32(), GGMLQuantizationType[encoding]).view(np.uint8)
    data.flags.writeable = False  # as a mapped file is
    return replace(tensor, encoding=encoding, data=data)


def values(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    return torch.from_numpy(checkpoint.weights[name].to_float32())


def test_projections_are_stacked_in_order_with_their_biases() -> None:
    checkpoint = random_checkpoint(QWEN2, 0)
    attention = build_transformer(checkpoint, CPU, torch.float32).blocks[1].attention
    names = [f"model.layers.1.self_attn.{name}_proj" for name in "qkv"]
    assert torch.equal(attention.qkv.weight, torch.cat([values(checkpoint, f"{name}.weight") for name in names]))
    assert attention.qkv.bias is not None
    assert torch.equal(attention.qkv.bias, torch.cat([values(checkpoint, f"{name}.bias") for name in names]))
    assert attention.output.bias is None


def test_queries_and_keys_are_normed_each_by_its_own_weight() -> None:
    checkpoint = random_checkpoint(QWEN3, 0)
    norm = build_transformer(checkpoint, CPU, torch.float32).blocks[0].attention.qk_norm
    assert norm is not None
    assert norm.weight.shape == (QWEN3.num_heads + QWEN3.num_kv_heads, QWEN3.head_dim)
    assert torch.equal(norm.weight[0], values(checkpoint, "model.layers.0.self_attn.q_norm.weight"))
    assert torch.equal(norm.weight[-1], values(checkpoint, "model.layers.0.self_attn.k_norm.weight"))


def test_the_head_is_the_embedding_itself_where_they_are_tied() -> None:
    tied = build_transformer(random_checkpoint(QWEN2, 0), CPU, torch.float32)
    untied = build_transformer(random_checkpoint(LLAMA, 0), CPU, torch.float32)
    assert tied.head.weight is tied.embedding
    assert not torch.equal(untied.head.weight, untied.embedding)


def test_experts_stand_in_the_layers_that_have_them() -> None:
    blocks = build_transformer(random_checkpoint(QWEN3_MOE, 0), CPU, torch.float32).blocks
    assert [isinstance(block.mlp, MixtureOfExperts) for block in blocks] == [True, False, True]


@pytest.mark.parametrize("encoding", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_encoding_becomes_every_dtype(encoding: str, dtype: torch.dtype) -> None:
    checkpoint = random_checkpoint(QWEN2, 0)
    tensor = encoded(checkpoint.weights[EMBEDDING], encoding)
    embedding = build_transformer(with_tensor(checkpoint, EMBEDDING, tensor), CPU, dtype).embedding
    assert torch.equal(embedding, torch.from_numpy(tensor.to_float32()).to(dtype))


@pytest.mark.parametrize("encoding", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_a_number_is_refused_by_name(encoding: str, dtype: torch.dtype, value: float) -> None:
    checkpoint = random_checkpoint(LLAMA, 0)
    plain = checkpoint.weights[KEYS]
    spoiled = plain.to_float32()
    spoiled[3, 5] = value
    halves = {
        "F32": spoiled,
        "F16": spoiled.astype(np.float16),
        "BF16": (spoiled.view(np.uint32) >> 16).astype(np.uint16),
    }
    data = halves[encoding].view(np.uint8)
    tensor = replace(plain, encoding=encoding, data=data, file_name="blk.1.attn_k.weight")
    with pytest.raises(ModelError, match=r"random-llama: tensor 'blk\.1\.attn_k\.weight' .* not finite"):
        build_transformer(with_tensor(checkpoint, KEYS, tensor), CPU, dtype)


def test_a_weight_that_the_dtype_cannot_hold_is_refused() -> None:
    checkpoint = random_checkpoint(LLAMA, 0)
    large = checkpoint.weights[KEYS].to_float32()
    large[0, 0] = 1e5
    large_checkpoint = with_tensor(checkpoint, KEYS, replace(checkpoint.weights[KEYS], data=large.view(np.uint8)))
    with pytest.raises(ModelError, match="not finite in float16"):
        build_transformer(large_checkpoint, CPU, torch.float16)
    build_transformer(large_checkpoint, CPU, torch.bfloat16)
