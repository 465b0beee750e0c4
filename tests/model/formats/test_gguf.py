"""A GGUF file as a checkpoint: canonical names, rows in the half-split order, experts, and files that lie."""

import math
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from model.config import ModelConfig, RopeConfig
from model.errors import ModelError
from model.formats.gguf import read
from model.formats.gguf_config import ARCHITECTURES
from tests.model.gguf_files import add_tensor, encode, gguf_writer, random_weights, save, small_config, write_gguf

TINY = small_config("llama", vocab_size=32, hidden_size=32, intermediate_size=32, num_layers=1, head_dim=8)
BIASED = small_config("llama", qkv_bias=True, output_bias=True, mlp_bias=True)


@pytest.mark.parametrize(
    "config",
    [small_config(architecture) for architecture in ARCHITECTURES]
    + [BIASED, small_config("qwen3moe", num_layers=11, tie_word_embeddings=True)],
    ids=lambda config: f"{config.architecture}-{config.num_layers}-{config.mlp_bias}",
)
def test_what_was_converted_is_read_back(tmp_path: Path, config: ModelConfig) -> None:
    weights = random_weights(config)
    checkpoint = read(write_gguf(tmp_path / "model.gguf", config, weights))
    assert checkpoint.config == config
    assert list(checkpoint.weights) == list(weights)
    for name, values in weights.items():
        np.testing.assert_array_equal(checkpoint.weights[name].to_float32(), values, err_msg=name)


@pytest.mark.parametrize("encoding", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_the_order_of_rows_does_not_depend_on_the_encoding(tmp_path: Path, encoding: str) -> None:
    weights = random_weights(small_config())
    checkpoint = read(write_gguf(tmp_path / "model.gguf", small_config(), weights, encoding))
    kind = gguf.GGMLQuantizationType[encoding]
    for name, values in weights.items():
        if values.ndim == 2:
            expected = gguf.dequantize(encode(values, encoding), kind)
            np.testing.assert_array_equal(checkpoint.weights[name].to_float32(), expected, err_msg=name)
            assert checkpoint.weights[name].encoding == encoding


@pytest.mark.parametrize("encoding", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_k_quants_are_put_in_order_too(tmp_path: Path, encoding: str) -> None:
    config = small_config(hidden_size=256, intermediate_size=256, head_dim=64)
    path = write_gguf(tmp_path / "model.gguf", config, encoding=encoding)
    query = read(path).weights["model.layers.1.self_attn.q_proj.weight"]
    stored = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "blk.1.attn_q.weight")
    rows = gguf.dequantize(stored.data, stored.tensor_type).reshape(4, 64, 256)
    expected = np.concatenate([rows[:, 0::2], rows[:, 1::2]], axis=1).reshape(256, 256)
    np.testing.assert_array_equal(query.to_float32(), expected)


def test_a_llama_of_transformers_keeps_its_weights(tmp_path: Path) -> None:
    """Against the original, and against what transformers makes of the file: it undoes the order in its own way."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    sizes = {"vocab_size": 96, "intermediate_size": 96, "num_hidden_layers": 2, "tie_word_embeddings": False}
    original = LlamaForCausalLM(LlamaConfig(**shape, **sizes)).state_dict()
    weights = {name: tensor.numpy() for name, tensor in original.items()}
    checkpoint = read(write_gguf(tmp_path / "model.gguf", small_config(), weights))
    reread = LlamaForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf").state_dict()
    assert checkpoint.weights.keys() == original.keys() == reread.keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(checkpoint.weights[name].to_float32(), values, err_msg=name)
        np.testing.assert_array_equal(reread[name].numpy(), values, err_msg=name)


def test_only_llamas_queries_and_keys_leave_the_mapped_file(tmp_path: Path) -> None:
    for architecture in ARCHITECTURES:
        path = write_gguf(tmp_path / f"{architecture}.gguf", small_config(architecture))
        copied = {name for name, tensor in read(path).weights.items() if tensor.data.flags.writeable}
        is_llama = architecture == "llama"
        expected = {f"model.layers.{i}.self_attn.{x}_proj.weight" for i in range(2) for x in "qk" if is_llama}
        assert copied == expected


def test_experts_are_named_by_their_place_in_the_stack(tmp_path: Path) -> None:
    checkpoint = read(write_gguf(tmp_path / "model.gguf", small_config("qwen3moe")))
    expert = checkpoint.weights["model.layers.1.mlp.experts.3.down_proj.weight"]
    assert (expert.file_name, expert.shape) == ("blk.1.ffn_down_exps.weight[3]", (64, 32))
    neighbour = checkpoint.weights["model.layers.1.mlp.experts.2.down_proj.weight"]
    address = expert.data.__array_interface__["data"][0]
    assert address - neighbour.data.__array_interface__["data"][0] == neighbour.data.nbytes


def test_ends_sampling_and_rope_freqs_reach_the_checkpoint(tmp_path: Path) -> None:
    writer = gguf_writer(small_config())
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(3)
    writer.add_sampling_temp(0.25)
    add_tensor(writer, "rope_freqs.weight", np.full(16, 2.0, np.float32), "F32")
    save(writer, tmp_path / "model.gguf")
    checkpoint = read(tmp_path / "model.gguf")
    assert checkpoint.eos_token_ids == {2, 3}
    assert checkpoint.generation.temperature == 0.25
    assert checkpoint.config.rope == RopeConfig(frequency_divisors=(2.0,) * 16)
    assert checkpoint.path == tmp_path / "model.gguf"


def test_the_message_names_file_and_missing_tensor(tmp_path: Path) -> None:
    for name in list(gguf_writer(BIASED).tensors[0]):
        if name in ("output.weight", "blk.0.attn_q.bias", "blk.0.attn_output.bias", "blk.0.ffn_gate.bias"):
            continue  # without these it is another model
        writer = gguf_writer(BIASED)
        del writer.tensors[0][name]
        save(writer, tmp_path / "model.gguf")
        with pytest.raises(ModelError, match=f"model.gguf: tensor '{name}' is missing"):
            read(tmp_path / "model.gguf")


@pytest.mark.parametrize("name", ["blk.2.attn_norm.weight", "blk.0.attn_q_norm.weight", "output.bias", "a\\nb"])
def test_a_tensor_that_is_left_over_is_refused(tmp_path: Path, name: str) -> None:
    writer = gguf_writer(small_config())
    add_tensor(writer, name, np.ones(64, np.float32), "F32")
    save(writer, tmp_path / "model.gguf")
    with pytest.raises(ModelError, match="is left over: a llama model of 2 layers") as caught:
        read(tmp_path / "model.gguf")
    assert f"tensor {name!r} " in caught.value.problem


@pytest.mark.parametrize(
    ("architecture", "name", "shape"),
    [
        ("llama", "blk.0.attn_q.weight", (64, 64)),
        ("llama", "blk.1.ffn_down.weight", (96, 64)),
        ("llama", "output_norm.weight", (64, 1)),
        ("qwen3", "blk.0.attn_k_norm.weight", (64,)),
        ("qwen3moe", "blk.0.ffn_up_exps.weight", (3, 32, 64)),
        ("qwen3moe", "blk.0.ffn_gate_inp.weight", (3, 64)),
    ],
)
def test_a_wrong_shape_is_refused(tmp_path: Path, architecture: str, name: str, shape: tuple[int, ...]) -> None:
    writer = gguf_writer(small_config(architecture))
    del writer.tensors[0][name]
    add_tensor(writer, name, np.ones(shape, np.float32), "F32")
    save(writer, tmp_path / "model.gguf")
    with pytest.raises(ModelError, match=rf"tensor '{name}' has shape \({shape[0]},.*: a {architecture} model"):
        read(tmp_path / "model.gguf")


def test_a_quantised_bias_cannot_be_put_in_order(tmp_path: Path) -> None:
    writer = gguf_writer(BIASED)
    del writer.tensors[0]["blk.0.attn_q.bias"]
    add_tensor(writer, "blk.0.attn_q.bias", np.ones(128, np.float32), "Q8_0")
    save(writer, tmp_path / "model.gguf")
    with pytest.raises(ModelError, match=r"'blk\.0\.attn_q\.bias' is a bias encoded as Q8_0; F32, F16 or BF16"):
        read(tmp_path / "model.gguf")


def test_not_a_number_is_found_when_the_values_are_asked_for(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    weights["model.layers.0.self_attn.k_proj.weight"][7, 5] = math.nan
    checkpoint = read(write_gguf(tmp_path / "model.gguf", TINY, weights))
    with pytest.raises(
        ModelError, match=r"model\.gguf: tensor 'blk\.0\.attn_k\.weight' has values that are not finite"
    ):
        checkpoint.weights["model.layers.0.self_attn.k_proj.weight"].to_float32()


HEAD_BYTES = 1600  # of the tiny file: keys and entries, where a flipped bit says the most


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = write_gguf(tmp_path_factory.mktemp("tiny") / "model.gguf", TINY)
    assert 1000 < gguf.GGUFReader(path).data_offset <= HEAD_BYTES
    return path.read_bytes()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.dictionaries(st.integers(0, HEAD_BYTES), st.integers(0, 255), max_size=4),
    data_flips=st.dictionaries(st.integers(HEAD_BYTES, 3 * HEAD_BYTES), st.integers(0, 255), max_size=2),
    size=st.one_of(st.none(), st.integers(0, HEAD_BYTES)),
)
def test_a_damaged_file_is_a_checkpoint_or_a_model_error(
    tmp_path: Path, tiny: bytes, flips: dict[int, int], data_flips: dict[int, int], size: int | None
) -> None:
    content = bytearray(tiny)
    for position, value in (flips | data_flips).items():
        content[position] = value
    path = tmp_path / "model.gguf"
    path.write_bytes(content[:size])
    problem = decode_all(path)
    assert "\n" not in problem
    assert problem or size is None


def decode_all(path: Path) -> str:
    """Nothing, or the message of the ModelError; any other exception fails the test."""
    try:
        for tensor in read(path).weights.values():
            tensor.to_float32()
    except ModelError as error:
        return str(error)
    return ""


def test_every_single_byte_of_the_head_may_be_wrong(tmp_path: Path, tiny: bytes) -> None:
    path = tmp_path / "model.gguf"
    problems = []
    for position in range(HEAD_BYTES):
        content = bytearray(tiny)
        content[position] ^= 0xFF
        path.write_bytes(content)
        problems.append(decode_all(path))
    assert all(problem.startswith(f"{path}: ") for problem in problems if problem)
    assert sum(map(bool, problems)) > HEAD_BYTES * 0.8
