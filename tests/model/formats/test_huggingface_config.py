"""`config.json` against what transformers makes of the same file, and the keys that must be refused."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, PretrainedConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeForCausalLM

from model.config import ModelConfig
from model.errors import ModelError
from model.formats.checkpoint import GenerationDefaults
from model.formats.huggingface_config import read_config, read_eos_token_ids, read_generation_defaults
from tests.model.hf_models import EXPERTS, SIZES, edit_json

CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}

# Of each key a value that is nobody's default, so that a loader which does not read it is found out.
OPTIONAL: dict[str, Any] = {
    "num_key_value_heads": 1,
    "head_dim": 20,
    "rms_norm_eps": 3e-4,
    "max_position_embeddings": 777,
    "tie_word_embeddings": True,
    "attention_bias": True,
    "mlp_bias": True,
}
OPTIONAL_EXPERTS = {
    **EXPERTS,
    "num_experts": 10,
    "num_experts_per_tok": 3,
    "decoder_sparse_step": 2,
    "mlp_only_layers": [0],
}


def write_config(folder: Path, kind: str, drop: tuple[str, ...] = (), **changes: Any) -> None:
    values = {**SIZES, "architectures": [CLASSES[kind]], "model_type": kind} | changes
    edit_json(folder / "config.json", drop, **values)


def expect_equal(ours: ModelConfig, theirs: PretrainedConfig) -> None:
    fixed_bias = theirs.model_type == "qwen2"
    assert ours.hidden_size == theirs.hidden_size
    assert ours.num_heads == theirs.num_attention_heads
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.max_positions == theirs.max_position_embeddings
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    assert ours.qkv_bias == (fixed_bias or theirs.attention_bias)
    assert ours.output_bias == (not fixed_bias and theirs.attention_bias)
    assert ours.mlp_bias == (theirs.model_type == "llama" and theirs.mlp_bias)
    assert ours.qk_norm == theirs.model_type.startswith("qwen3")
    assert (ours.moe is not None) == (theirs.model_type == "qwen3_moe")
    if ours.moe is not None:
        assert ours.moe.num_experts == theirs.num_experts
        assert ours.moe.num_experts_per_token == theirs.num_experts_per_tok
        assert ours.moe.intermediate_size == theirs.moe_intermediate_size
        assert ours.moe.norm_topk_prob == theirs.norm_topk_prob


@pytest.mark.parametrize("model_type", CLASSES)
@pytest.mark.parametrize("absent", [None, *OPTIONAL, *OPTIONAL_EXPERTS])
def test_each_optional_key_and_its_absence_mean_what_transformers_says(
    model_type: str, absent: str | None, tmp_path: Path
) -> None:
    changes = OPTIONAL | (OPTIONAL_EXPERTS if model_type == "qwen3_moe" else {})
    changes |= {"num_attention_heads": 32, "hidden_size": 1280}  # the old default of 32 key-value heads must divide it
    write_config(tmp_path, model_type, drop=(absent,) if absent else (), **changes)
    expect_equal(read_config(tmp_path), AutoConfig.from_pretrained(tmp_path))


def test_key_value_heads_that_are_null_are_as_many_as_heads(tmp_path: Path) -> None:
    for model_type in ("llama", "qwen2", "qwen3"):
        write_config(tmp_path, model_type, num_key_value_heads=None)
        expect_equal(read_config(tmp_path), AutoConfig.from_pretrained(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mlp_only_layers": [0, 2]},
        {"mlp_only_layers": None},
        {"decoder_sparse_step": 2},
        {"decoder_sparse_step": 3, "mlp_only_layers": [1]},
        {"mlp_only_layers": [0, 1, 2]},
        {"decoder_sparse_step": 9},
    ],
)
def test_the_layers_with_experts_are_those_of_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    write_config(tmp_path, "qwen3_moe", **EXPERTS | changes)
    theirs = Qwen3MoeForCausalLM(AutoConfig.from_pretrained(tmp_path))
    ours = read_config(tmp_path)
    with_experts = [hasattr(layer.mlp, "experts") for layer in theirs.model.layers]
    assert [ours.is_moe_layer(layer) for layer in range(ours.num_layers)] == with_experts


def test_both_names_of_the_number_of_experts_are_read(tmp_path: Path) -> None:
    write_config(tmp_path, "qwen3_moe", drop=("num_experts",), **EXPERTS, num_local_experts=7)
    assert read_config(tmp_path).moe.num_experts == 7
    edit_json(tmp_path / "config.json", num_experts=7)
    assert read_config(tmp_path).moe.num_experts == 7
    edit_json(tmp_path / "config.json", num_experts=6)
    with pytest.raises(ModelError, match="num_experts is 6, but num_local_experts 7"):
        read_config(tmp_path)


def test_the_architecture_is_known_by_model_type_alone(tmp_path: Path) -> None:
    write_config(tmp_path, "qwen2", drop=("architectures",))
    assert read_config(tmp_path).architecture == "qwen2"


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM is unknown; known are LlamaForCausalLM"),
    ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification is unknown"),
    ("llama", {"architectures": None, "model_type": "gemma"}, r"\(model type gemma\) is unknown"),
    ("llama", {"architectures": None, "model_type": None}, r"\(model type None\) is unknown"),
    ("llama", {"model_type": "mistral"}, 'model_type is "mistral"; it must be llama'),
    ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu'"),
    ("llama", {"pretraining_tp": 2}, "pretraining_tp is 2; only 1"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ("llama", {"sliding_window": 4096}, "sliding_window is 4096"),
    ("llama", {"rope_interleaved": True}, "rope_interleaved is True"),
    ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config is .*gptq"),
    ("llama", {"compression_config": {"format": "int"}}, "compression_config"),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
    ("llama", {"embedding_multiplier": 12.0}, "embedding_multiplier is 12.0"),
    ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ("qwen2", {"use_sliding_window": True}, "use_sliding_window is True"),
    ("qwen2", {"use_mrope": True}, "use_mrope is True"),
    ("qwen2", {"dual_chunk_attention_config": {"chunk_size": 1}}, "dual_chunk_attention_config"),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types names sliding_attention"),
    ("qwen3_moe", {**EXPERTS, "num_experts_per_tok": 6}, "num_experts_per_tok is 6"),
    ("qwen3_moe", {**EXPERTS, "decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
    ("qwen3_moe", {**EXPERTS, "norm_topk_prob": "yes"}, 'norm_topk_prob is "yes"'),
    ("llama", {"num_key_value_heads": 3}, r"num_attention_heads \(4\) is no multiple of num_key_value_heads \(3\)"),
    ("llama", {"head_dim": 15}, "the head dimension is 15"),
    ("llama", {"hidden_size": "64"}, 'hidden_size is "64"'),
    ("llama", {"vocab_size": 1.5}, "vocab_size is 1.5"),
    ("llama", {"num_hidden_layers": 513}, "num_hidden_layers is 513; it must be a whole number from 1 to 512"),
    ("qwen3_moe", {**EXPERTS, "num_experts": 513}, "num_experts is 513; it must be a whole number from 0 to 512"),
    ("llama", {"num_attention_heads": 0}, "num_attention_heads is 0"),
    ("llama", {"intermediate_size": None}, "the key intermediate_size is missing"),
    ("llama", {"rms_norm_eps": -1e-6}, "rms_norm_eps is -1e-06"),
    ("llama", {"attention_bias": 1}, "attention_bias is 1"),
    ("llama", {"tie_word_embeddings": "false"}, "tie_word_embeddings"),
    ("llama", {"architectures": "LlamaForCausalLM"}, "architectures is"),
]


@pytest.mark.parametrize(("model_type", "changes", "message"), REFUSED)
def test_what_cannot_be_served_is_refused_by_key(
    model_type: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_config(tmp_path, model_type, **changes)
    with pytest.raises(ModelError, match=rf"config\.json: .*{message}"):
        read_config(tmp_path)


def test_values_that_change_nothing_are_accepted(tmp_path: Path) -> None:
    harmless = {"sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 2, "use_mrope": False}
    write_config(tmp_path, "qwen2", **harmless, layer_types=["full_attention"] * 3, quantization_config=None)
    assert read_config(tmp_path).architecture == "qwen2"
    write_config(tmp_path, "llama", pretraining_tp=1, rope_interleaved=False, is_llama_config=True, sliding_window=None)
    assert read_config(tmp_path).architecture == "llama"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, GenerationDefaults()),
        ({"temperature": None, "do_sample": None}, GenerationDefaults()),
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.1},
            GenerationDefaults(temperature=0.6, top_p=0.95, top_k=20, repetition_penalty=1.1),
        ),
        ({"temperature": 0.6, "min_p": 0.05}, GenerationDefaults(temperature=0.6, min_p=0.05)),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, GenerationDefaults(temperature=0.0, top_p=0.9)),
        ({"do_sample": False}, GenerationDefaults(temperature=0.0)),
        ({"do_sample": False, "top_p": 0.0}, GenerationDefaults(temperature=0.0, top_p=0.0)),  # the best token alone
        ({"top_k": -1, "temperature": 1}, GenerationDefaults(temperature=1.0, top_k=0)),
    ],
)
def test_recommended_sampling_is_read(values: dict[str, Any], expected: GenerationDefaults, tmp_path: Path) -> None:
    edit_json(tmp_path / "generation_config.json", **values)
    assert read_generation_defaults(tmp_path) == expected


def test_without_a_generation_config_nothing_is_recommended(tmp_path: Path) -> None:
    assert read_generation_defaults(tmp_path) == GenerationDefaults()


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1},
        {"temperature": 1e300},
        {"top_p": -0.1},
        {"top_p": 1.5},
        {"top_k": 2.5},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"repetition_penalty": 1e-300},
        {"repetition_penalty": 1e300},
    ],
)
def test_sampling_values_out_of_bounds_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    edit_json(tmp_path / "generation_config.json", **values)
    with pytest.raises(ModelError, match=rf"generation_config\.json: {next(iter(values))} is"):
        read_generation_defaults(tmp_path)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [(None, None, set()), (2, None, {2}), (None, [3, 4], {3, 4}), ([2, 3], [3, 4], {2, 3, 4}), (0, 0, {0})],
)
def test_end_tokens_of_both_files_count(config: Any, generation: Any, expected: set[int], tmp_path: Path) -> None:
    edit_json(tmp_path / "config.json", eos_token_id=config)
    edit_json(tmp_path / "generation_config.json", eos_token_id=generation)
    assert read_eos_token_ids(tmp_path) == expected


def test_end_tokens_need_no_generation_config(tmp_path: Path) -> None:
    edit_json(tmp_path / "config.json", eos_token_id=[5])
    assert read_eos_token_ids(tmp_path) == {5}
