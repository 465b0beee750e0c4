"""The `slotwise` command with a fake in place of loading a model; tests run it as a process of its own:

python -m tests.serve_fake BEHAVIOUR serve --port 0 …
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import app.main
from app.cli import main
from model.batch import Batch
from model.errors import ModelError
from model.formats.checkpoint import GenerationDefaults
from model.load import LoadedModel
from model.options import LoadOptions
from tests.fakes import EOS, ByteTokenizer, FakeRunner, says


class Death(BaseException):
    """What no engine survives."""


class Template:
    source = "{{ messages[-1].content }}"
    variables = frozenset({"messages"})

    def render(self, messages: Sequence[Mapping[str, Any]], /, **variables: Any) -> str:
        return str(messages[-1]["content"])


def die(batch: Batch) -> None:
    if batch.chunks:
        raise Death


STEPS = {
    "answers": lambda batch: None,
    "crawls": lambda batch: time.sleep(0.05),  # a stream that is open for as long as a test needs
    "hangs": lambda batch: time.sleep(60),
    "dies": die,
}


def load(options: LoadOptions) -> LoadedModel:
    behaviour = sys.argv[1]
    sys.stderr.write("loading\n")
    sys.stderr.flush()
    if behaviour == "loads until told":
        sys.stdin.readline()
    if behaviour == "cannot load":
        raise ModelError("folder/model.gguf", "tensor 'output.weight' is missing.")
    before_step = STEPS.get(behaviour, STEPS["answers"])
    runner = FakeRunner(says("Because. " * 200), num_blocks=2048, max_model_len=4096, before_step=before_step)
    return LoadedModel(
        name="fake",
        path=Path("folder/fake.gguf"),
        runner=runner,
        tokenizer=ByteTokenizer(),  # type: ignore[arg-type]
        chat_template=None if behaviour == "cannot chat" else Template(),  # type: ignore[arg-type]
        generation=GenerationDefaults(temperature=0.5),
        eos_token_ids=frozenset({EOS}),
        architecture="sum",
        num_parameters=1_500_000,
    )


if __name__ == "__main__":
    app.main.locate = lambda options: Path("folder/fake.gguf")
    app.main.load = load
    sys.exit(main(sys.argv[2:]))
