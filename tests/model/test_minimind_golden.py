"""MiniMind's checkpoints of every generation, native and exported, against what the code of each generation computed
from them in float32; the exports against transformers' own classes, and GGUF made of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen3ForCausalLM, Qwen3MoeForCausalLM

from model.formats import gguf, huggingface, minimind, minimind_folder
from model.formats.adapter import merge
from model.formats.checkpoint import Checkpoint
from model.formats.minimind_yarn import scaled
from model.load import read_adapter
from model.torch_backend.runner import TorchOptions, TorchRunner
from tests.model.gguf_files import write_gguf
from tests.model.minimind_data import EXPORTS, GOLDEN, needs_minimind
from tests.model.reading import answer_greedily, read_one_by_one

pytestmark = needs_minimind

TOLERANCE = 2e-4  # the golden files' own spread is 5e-5, and a wrong eps makes 0.017
ROWS = ("0", "1", "2", "long")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return str(request.param)


def runner_of(checkpoint: Checkpoint, device: str = "cpu") -> TorchRunner:
    return TorchRunner(
        checkpoint, TorchOptions(device=device, dtype="float32", debug_poison=True, kv_cache_memory=2**28)
    )


def native(file: str) -> Callable[[], Checkpoint]:
    return lambda: minimind.read(GOLDEN / file)


def export(name: str) -> Callable[[], Checkpoint]:
    return lambda: huggingface.read(EXPORTS / name)


def with_adapter(checkpoint: Checkpoint) -> Checkpoint:
    return merge(checkpoint, read_adapter("x", GOLDEN / "v3-lora/lora_x_64.pth", checkpoint))


CHECKPOINTS: dict[str, tuple[Callable[[], Checkpoint], str]] = {
    "v1": (native("v1/full_sft_64.pth"), "v1"),
    "v1-moe": (native("v1-moe/full_sft_64_moe.pth"), "v1-moe"),
    "v2-early": (native("v2-early/full_sft_64.pth"), "v2-early"),
    "v2-early-moe": (native("v2-early-moe/full_sft_64_moe.pth"), "v2-early-moe"),
    "v2": (native("v2/full_sft_64.pth"), "v2"),
    "v2-moe": (native("v2-moe/full_sft_64_moe.pth"), "v2-moe"),
    "v3": (native("v3/full_sft_64.pth"), "v3"),
    "v3-resume": (native("v3/full_sft_64_resume.pth"), "v3"),
    "v3-moe": (native("v3-moe/full_sft_64_moe.pth"), "v3-moe"),
    "v3-moe-resume": (native("v3-moe/full_sft_64_moe_resume.pth"), "v3-moe"),
    "v3-untied": (native("v3-untied/full_sft_64.pth"), "v3-untied"),
    "hf-v2": (export("v2"), "v2"),
    "hf-v3": (export("v3"), "v3"),
    "hf-v3-moe-split": (export("v3-moe-split"), "v3-moe"),
    "hf-v3-moe-fused": (export("v3-moe-fused"), "v3-moe"),
    "hf-v3-minimind": (lambda: minimind_folder.read(EXPORTS / "v3-minimind"), "v3"),
    "v3-yarn": (lambda: scaled(native("v3/full_sft_64.pth")()), "v3-yarn"),
    "v3-lora": (lambda: with_adapter(native("v3/full_sft_64.pth")()), "v3-lora"),
    "hf-v3-yarn": (lambda: scaled(export("v3")()), "v3-yarn"),
}
GGUF = ("v2/full_sft_64.pth", "v3/full_sft_64.pth", "v3-moe/full_sft_64_moe.pth")  # what llama.cpp has a shape for
CLASSES: dict[str, type[PreTrainedModel]] = {
    "v2": LlamaForCausalLM,
    "v3": Qwen3ForCausalLM,
    "v3-moe-split": Qwen3MoeForCausalLM,
    "v3-moe-fused": Qwen3MoeForCausalLM,
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_it_computes_what_its_own_code_does(name: str, device: str) -> None:
    read, golden = CHECKPOINTS[name]
    expect_golden(runner_of(read(), device), golden)


@pytest.mark.parametrize("file", GGUF)
def test_gguf_made_of_it_computes_the_same(file: str, tmp_path: Path) -> None:
    original = native(file)()
    weights = {name: tensor.to_float32() for name, tensor in original.weights.items()}
    checkpoint = gguf.read(write_gguf(tmp_path / "m.gguf", original.config, weights))
    assert checkpoint.origin == f"GGUF {original.config.architecture}"
    expect_golden(runner_of(checkpoint), file.partition("/")[0])


@pytest.mark.parametrize("name", CLASSES)
@torch.inference_mode()
def test_exports_compute_what_transformers_own_classes_do(name: str) -> None:
    oracle = CLASSES[name].from_pretrained(EXPORTS / name, dtype=torch.float32).eval()
    checkpoint = export(name)()
    token_ids = torch.randint(0, 6400, (60,), generator=torch.Generator().manual_seed(5)).tolist()
    expected = oracle(input_ids=torch.tensor([token_ids])).logits[0]
    torch.testing.assert_close(read_one_by_one(runner_of(checkpoint), token_ids), expected, rtol=0, atol=TOLERANCE)
    assert checkpoint.origin == f"Hugging Face {CLASSES[name].__name__}"


def expect_golden(runner: TorchRunner, golden: str) -> None:
    expected = load_file(GOLDEN / golden / "expected.safetensors")
    prompts = [expected[f"input_ids_{row}"].tolist() for row in ROWS]
    answers, _ = answer_greedily(runner, prompts, 24)
    for row, prompt, answer in zip(ROWS, prompts, answers, strict=True):
        expect_logits(read_one_by_one(runner, prompt), expected, row)
        assert answer.tolist() == expected[f"greedy_{row}"].tolist()


def expect_logits(ours: Tensor, expected: dict[str, Tensor], row: str) -> None:
    """At each position that is stored: all logits, and for the long row some columns of every position."""
    torch.testing.assert_close(ours[expected[f"positions_{row}"]], expected[f"logits_{row}"], rtol=0, atol=TOLERANCE)
    if f"logits_{row}_columns" in expected:
        columns = ours[:, expected[f"columns_{row}"]]
        torch.testing.assert_close(columns, expected[f"logits_{row}_columns"], rtol=0, atol=TOLERANCE)
