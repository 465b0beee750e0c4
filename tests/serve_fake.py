"""The `slotwise` command with a fake in place of loading a model; tests run it as a process of its own:

python -m tests.serve_fake BEHAVIOUR serve --port 0 …
"""

import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import app.main
from app import listener
from app.cli import main
from model.batch import Batch, StepOutput
from model.errors import ModelError
from model.formats.checkpoint import GenerationDefaults
from model.load import LoadedModel
from model.options import LoadOptions
from tests.fakes import EOS, ByteTokenizer, FakeRunner, says
from tests.model.random_checkpoint import LLAMA


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


IS_OPEN = threading.Event()  # the port: the start's own steps, which test the model, are never disturbed


def open_port(sock: socket.socket) -> None:
    listener.open_port(sock)
    IS_OPEN.set()


def fail_at_once(batch: Batch) -> None:
    raise ArithmeticError("overflow")


class SlotDependentRunner(FakeRunner):
    def run(self, batch: Batch) -> StepOutput:
        rows = zip(batch.chunks, super().run(batch).results, strict=True)
        return StepOutput(tuple(replace(result, logprob=-0.5 - chunk.slot / 2**40) for chunk, result in rows))


STEPS = {
    "answers": lambda batch: None,
    "crawls": lambda batch: time.sleep(0.05),  # a stream that is open for as long as a test needs
    "hangs": lambda batch: time.sleep(60),
    "dies": die,
}


def once_open(step: Callable[[Batch], None]) -> Callable[[Batch], None]:
    return lambda batch: step(batch) if IS_OPEN.is_set() else None


def load(options: LoadOptions) -> LoadedModel:
    behaviour = sys.argv[1]
    sys.stderr.write("loading\n")
    sys.stderr.flush()
    if behaviour == "loads until told":
        sys.stdin.readline()
    if behaviour == "cannot load":
        raise ModelError("folder/model.gguf", "tensor 'output.weight' is missing.")
    step = fail_at_once if behaviour == "cannot compute" else once_open(STEPS.get(behaviour, STEPS["answers"]))
    kind = SlotDependentRunner if behaviour == "depends on slots" else FakeRunner
    runner = kind(says("Because. " * 200), num_blocks=2048, max_model_len=4096, before_step=step)
    return LoadedModel(
        name="fake",
        path=Path("folder/fake.gguf"),
        runner=runner,
        tokenizer=ByteTokenizer(),  # type: ignore[arg-type]
        chat_template=None if behaviour == "cannot chat" else Template(),  # type: ignore[arg-type]
        generation=GenerationDefaults(temperature=0.5),
        eos_token_ids=frozenset({EOS}),
        config=replace(LLAMA, architecture="sum"),
        num_parameters=1_500_000,
    )


if __name__ == "__main__":
    app.main.locate = lambda options: Path("folder/fake.gguf")
    app.main.load = load
    app.main.open_port = open_port
    sys.exit(main(sys.argv[2:]))
