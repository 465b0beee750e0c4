"""lm-evaluation-harness, unmodified, scores a model over HTTP as transformers scores it on the same weights.

The model is a small one with random weights, made here; its tokenizer is one that splits texts into several bytes.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.clients.conftest import export_tokenizer
from tests.clients.environments import clients_python, program, run
from tests.live_model import LiveModel, serve_model
from tests.model.hf_models import SIZES, save_random_model

TASKS = Path(__file__).parent / "lm_eval_tasks"
DOCUMENTS = [json.loads(line) for line in (TASKS / "choices.jsonl").read_text().splitlines()]
TOLERANCE = 1e-3
END = "<end>"

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]


@dataclass(frozen=True, slots=True)
class Scored:
    folder: Path
    model: PreTrainedModel
    tokenizer: Tokenizer

    def score(self, context: str, continuation: str) -> tuple[float, bool]:
        """Of a continuation: its log-likelihood, and whether greedy decoding gives it."""
        before, after = self.tokenizer.encode(context).ids, self.tokenizer.encode(context + continuation).ids
        return self.score_ids(after, len(before))

    def score_text(self, text: str) -> float:
        """Of a whole text, behind the token that ends texts."""
        ids = [self.tokenizer.token_to_id(END), *self.tokenizer.encode(text).ids]
        return self.score_ids(ids, 1)[0]

    def score_ids(self, ids: list[int], start: int) -> tuple[float, bool]:
        wanted = torch.tensor(ids[start:])
        with torch.inference_mode():
            logprobs = self.model(torch.tensor([ids])).logits[0, start - 1 : -1].double().log_softmax(-1)
        is_greedy = bool((logprobs.argmax(-1) == wanted).all())
        return float(logprobs.gather(1, wanted[:, None]).sum()), is_greedy


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    saved = save_random_model("llama", tmp_path_factory.mktemp("model"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZES["vocab_size"],
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([document["question"] for document in DOCUMENTS], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(saved.folder)
    return Scored(saved.folder, saved.model, tokenizer)


@pytest.fixture(scope="module")
def scoring(scored: Scored) -> Iterator[LiveModel]:
    options = ("--backend", "torch", "--dtype", "float32", "--kv-dtype", "float32", "--served-model-name", "scored")
    with serve_model(str(scored.folder), *options) as server:
        yield server


@pytest.fixture(scope="module")
def exported(scored: Scored, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_tokenizer(str(scored.folder), folder)
    return folder


def evaluate(server: LiveModel, task: str, folder: Path, batch_size: int, **arguments: Any) -> list[dict[str, Any]]:
    """The samples of a task, in the order of its documents."""
    given = {"model": "scored", "base_url": f"{server.url}/v1/completions", "max_length": 512} | arguments
    words = ",".join(f"{name}={value}" for name, value in given.items())
    output = folder / "output"
    lm_eval = program("lm_eval", str(Path(clients_python()).with_name("lm_eval")))
    command = [lm_eval, "run", "--model", "local-completions", "--model_args", words]
    options = ["--tasks", task, "--include_path", str(TASKS), "--batch_size", str(batch_size)]
    (folder / "choices.jsonl").write_bytes((TASKS / "choices.jsonl").read_bytes())  # where the task looks for it
    run([*command, *options, "--log_samples", "--output_path", str(output)], folder)
    (samples,) = output.rglob(f"samples_{task}_*.jsonl")
    return sorted(map(json.loads, samples.read_text().splitlines()), key=lambda sample: int(sample["doc_id"]))


def responses(samples: Iterable[dict[str, Any]]) -> list[list[Any]]:
    """Of every document, what the model said of each request."""
    return [[response[0] for response in sample["resps"]] for sample in samples]


def expect_choices(samples: list[dict[str, Any]], scored: Scored) -> None:
    assert len(samples) == len(DOCUMENTS)
    for document, answers in zip(DOCUMENTS, responses(samples), strict=True):
        for choice, (loglikelihood, is_greedy) in zip(document["choices"], answers, strict=True):
            expected, expected_greedy = scored.score(document["question"], f" {choice}")
            assert float(loglikelihood) == pytest.approx(expected, abs=TOLERANCE), choice
            assert (is_greedy in (True, "True")) == expected_greedy


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("backend", ["remote", "huggingface"])
def test_choices(
    backend: str, batch_size: int, scored: Scored, scoring: LiveModel, exported: Path, tmp_path: Path
) -> None:
    tokenizer = {"tokenizer": exported} if backend == "huggingface" else {}
    samples = evaluate(
        scoring, "slotwise_choices", tmp_path, batch_size, tokenizer_backend=backend, num_concurrent=2, **tokenizer
    )

    expect_choices(samples, scored)


def test_choices_sent_as_texts(scored: Scored, scoring: LiveModel, tmp_path: Path) -> None:
    """And with the tokenizer left to the harness, which finds the server's."""
    samples = evaluate(scoring, "slotwise_choices", tmp_path, 4, tokenized_requests=False)

    expect_choices(samples, scored)


def test_whole_texts(scored: Scored, scoring: LiveModel, tmp_path: Path) -> None:
    samples = evaluate(scoring, "slotwise_texts", tmp_path, 4)

    for document, answers in zip(DOCUMENTS, responses(samples), strict=True):
        text = f"{document['question']} {', '.join(document['choices'])}"
        assert [float(answer) for answer in answers] == [pytest.approx(scored.score_text(text), abs=TOLERANCE)]
