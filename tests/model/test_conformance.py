"""The same inputs, the same numbers: against transformers on the real default model and on small random models of every
kind, and against what MiniMind's own code computed from its own checkpoints."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from model.default_model import find_or_fetch
from model.formats import gguf, huggingface, minimind
from model.formats.adapter import merge
from model.formats.checkpoint import Checkpoint
from model.load import load, read_adapter
from model.options import LoadOptions
from model.torch_backend.runner import TorchOptions, TorchRunner
from tests.model.gguf_files import small_config, write_gguf
from tests.model.hf_models import MODELS, save_random_model
from tests.model.minimind_data import EXPORTS, GOLDEN, needs_minimind
from tests.model.reading import answer_greedily, read_one_by_one

TOLERANCE_OF_DEFAULT_MODEL = 1e-3
TOLERANCE = 2e-4  # golden files: their own spread is 5e-5, and a wrong eps makes 0.017

PROMPTS = (
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):\n    ",
    "import numpy as np\n\nx = np.array([1, 2, 3])\n",
    "Question: What is 17 + 25?\nAnswer:",
    "1, 1, 2, 3, 5, 8, 13,",
    "Water boils at 100 degrees",
    "Dear Sir or Madam,\n\n",
    "今天天气很好，我们去",
    "😀😃😄😁",
    "SELECT name, age FROM users WHERE",
    '{"name": "Alice", "age": 30, "city":',
    "<html>\n<head>\n<title>",
    "La vie est belle et",
    "Der schnelle braune Fuchs",
    "In 1969, the first human",
    "A B C D E F G",
    "\n\n\n",
    "x",
    "The theory of evolution by natural selection was first formulated in detail by Charles Darwin. " * 8,
)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return str(request.param)


def make_runner(checkpoint: Checkpoint, device: str) -> TorchRunner:
    options = TorchOptions(device=device, dtype="float32", max_num_seqs=32, debug_poison=True, kv_cache_memory=2**28)
    return TorchRunner(checkpoint, options)


@torch.inference_mode()
def oracle_logits(model: PreTrainedModel, token_ids: list[int]) -> Tensor:  # [T, V]
    return model(input_ids=torch.tensor([token_ids])).logits[0].float()


def test_the_default_model_computes_what_transformers_does_on_the_same_weights() -> None:
    """20 prompts at once, 64 greedy tokens each. The oracle is given each whole text: if its most likely token at every
    place is the next one, it would have chosen the same by itself."""
    path = find_or_fetch()
    loaded = load(LoadOptions(model=str(path), backend="torch", device="cpu", kv_cache_memory=2**30))
    assert isinstance(loaded.runner, TorchRunner)
    oracle = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    prompts = [loaded.tokenizer.encode(text) for text in PROMPTS]
    tokens, logits = answer_greedily(loaded.runner, prompts, 64)
    for prompt, answer, ours in zip(prompts, tokens.tolist(), logits, strict=True):
        expected = oracle_logits(oracle, [*prompt, *answer[:-1]])[len(prompt) - 1 :]
        torch.testing.assert_close(ours, expected, rtol=0, atol=TOLERANCE_OF_DEFAULT_MODEL)
        assert expected.argmax(-1).tolist() == answer


@pytest.mark.parametrize("name", MODELS)
def test_small_models_of_every_kind_compute_what_transformers_does(name: str, tmp_path: Path, device: str) -> None:
    saved = save_random_model(name, tmp_path)
    runner = make_runner(huggingface.read(tmp_path), device)
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, 320, (length,), generator=generator).tolist() for length in (1, 7, 40, 200)]
    tokens, logits = answer_greedily(runner, prompts, 24)
    for prompt, answer, ours in zip(prompts, tokens.tolist(), logits, strict=True):
        expected = oracle_logits(saved.model, [*prompt, *answer[:-1]])[len(prompt) - 1 :]
        torch.testing.assert_close(ours, expected, rtol=0, atol=TOLERANCE)
        assert expected.argmax(-1).tolist() == answer


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])  # transformers drops Qwen3's sizes from GGUF
def test_small_gguf_files_compute_what_transformers_makes_of_them(architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, small_config(architecture, head_dim=16))  # what transformers can read of every one of them
    checkpoint = gguf.read(path)
    runner = make_runner(checkpoint, "cpu")
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).eval()
    token_ids = list(range(2, 50))
    torch.testing.assert_close(
        read_one_by_one(runner, token_ids), oracle_logits(oracle, token_ids), rtol=0, atol=TOLERANCE
    )


def golden_checkpoint(name: str) -> Checkpoint:
    if name.startswith("hf-"):
        return huggingface.read(EXPORTS / name.removeprefix("hf-"))
    return minimind.read(min((GOLDEN / name).glob("full_sft_64*.pth"), key=lambda path: len(path.name)))


@needs_minimind
@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("v3", "v3"),
        ("v3-moe", "v3-moe"),
        ("v3-untied", "v3-untied"),
        ("hf-v3", "v3"),
        ("hf-v3-moe-split", "v3-moe"),
        ("hf-v3-moe-fused", "v3-moe"),
    ],
)
def test_minimind_3_computes_what_its_own_code_does(name: str, golden: str, device: str) -> None:
    runner = make_runner(golden_checkpoint(name), device)
    expected = load_file(GOLDEN / golden / "expected.safetensors")
    rows = ["0", "1", "2", "long"]
    prompts = [expected[f"input_ids_{row}"].tolist() for row in rows]
    answers, _ = answer_greedily(runner, prompts, 24)
    for row, prompt, answer in zip(rows, prompts, answers, strict=True):
        positions = expected[f"positions_{row}"]
        ours = read_one_by_one(runner, prompt)[positions]
        torch.testing.assert_close(ours, expected[f"logits_{row}"], rtol=0, atol=TOLERANCE)
        assert answer.tolist() == expected[f"greedy_{row}"].tolist()


@needs_minimind
def test_a_merged_adapter_computes_what_minimind_does_with_it(device: str) -> None:
    adapter = read_adapter("x", GOLDEN / "v3-lora/lora_x_64.pth", golden_checkpoint("v3"))
    runner = make_runner(merge(golden_checkpoint("v3"), adapter), device)
    expected = load_file(GOLDEN / "v3-lora/expected.safetensors")
    rows = ["0", "1", "2", "long"]
    prompts = [expected[f"input_ids_{row}"].tolist() for row in rows]
    answers, _ = answer_greedily(runner, prompts, 24)
    for row, prompt, answer in zip(rows, prompts, answers, strict=True):
        ours = read_one_by_one(runner, prompt)[expected[f"positions_{row}"]]
        torch.testing.assert_close(ours, expected[f"logits_{row}"], rtol=0, atol=TOLERANCE)
        assert answer.tolist() == expected[f"greedy_{row}"].tolist()
