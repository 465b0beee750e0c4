"""lm-evaluation-harness, by its `local-completions`, on a task made for the purpose: what it reads as log-likelihoods
is what transformers has on the same weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.clients.conftest import export_tokenizer
from tests.clients.environments import clients_python, run
from tests.live_model import serve_model

pytestmark = pytest.mark.clients

TOLERANCE = 1e-3
QUESTIONS = (
    {"question": "The sky is", "choices": ["blue", "a table", "seven"], "answer": 0},
    {"question": "Grass is", "choices": ["loud", "green"], "answer": 1},
    {"question": "Two and two make", "choices": ["four", "a river", "green tea"], "answer": 0},
)
TASK = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {questions}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Small, of random weights, with the default model's tokenizer."""
    folder = tmp_path / "model"
    export_tokenizer("default", folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(folder)),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def loglikelihood(model: LlamaForCausalLM, tokenizer: Any, context: str, continuation: str) -> float:
    start = len(tokenizer(context)["input_ids"])
    token_ids = torch.tensor(tokenizer(context + continuation)["input_ids"])
    with torch.inference_mode():
        logprobs = model(token_ids[None]).logits[0].log_softmax(-1)
    return float(logprobs[:-1].gather(1, token_ids[1:, None])[start - 1 :].sum())


@pytest.mark.parametrize("num_concurrent", [1, 4])
def test_loglikelihoods_are_those_of_transformers(model: Path, num_concurrent: int, tmp_path: Path) -> None:
    questions, out = tmp_path / "questions.jsonl", tmp_path / "out"
    questions.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    (tmp_path / "colours.yaml").write_text(TASK.format(questions=questions))
    with serve_model(str(model), "--backend", "torch", "--dtype", "float32", "--served-model-name", "m") as server:
        where = f"base_url={server.url}/v1/completions,model=m,tokenizer_backend=huggingface,tokenizer={model}"
        arguments = ["--model_args", f"{where},num_concurrent={num_concurrent},max_retries=1"]
        task = ["--include_path", str(tmp_path), "--tasks", "colours", "--output_path", str(out), "--log_samples"]
        program = str(Path(clients_python()).with_name("lm_eval"))
        run([program, "--model", "local-completions", *arguments, *task], tmp_path)

    reference, tokenizer = LlamaForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    samples = [json.loads(line) for path in out.rglob("samples_*.jsonl") for line in path.read_text().splitlines()]
    assert len(samples) == len(QUESTIONS)
    for sample in samples:
        question = sample["doc"]
        expected = [
            loglikelihood(reference, tokenizer, question["question"], " " + choice) for choice in question["choices"]
        ]
        seen = [float(answer[0][0]) for answer in sample["resps"]]
        assert seen == pytest.approx(expected, abs=TOLERANCE)
