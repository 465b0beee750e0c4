"""OpenVINO GenAI's continuous batching has no server, so it is driven in its own process: the same workload, without
HTTP. That favours it a little.

`PYTHON -m tests.peers.openvino_process FOLDER` in OpenVINO's own interpreter, from the root of the checkout: prints a
line when the model is loaded; then answers each line of JSON (a workload's fields) with a line of JSON (the figures).
`OpenVino` below is the other end of these pipes.
"""

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.peers.workload import Answer, Figures, Workload

ROOT = Path(__file__).parents[2]
READY = "ready"
CACHE_GIB = 2


@dataclass(frozen=True, slots=True)
class RunningOpenVino:
    pid: int
    questions: IO[str]
    answers: IO[str]

    def measure(self, workload: Workload) -> Figures:
        self._ask(workload.warm_up())
        return self._ask(workload)

    def _ask(self, workload: Workload) -> Figures:
        self.questions.write(json.dumps(asdict(workload)) + "\n")
        self.questions.flush()
        return Figures(**json.loads(self.answers.readline()))


@dataclass(frozen=True, slots=True)
class OpenVino:
    """Implements `servers.Peer`."""

    python: str
    folder: str
    threads: int

    @property
    def name(self) -> str:
        return f"OpenVINO {Path(self.folder).name}"

    @contextmanager
    def start(self) -> Iterator[RunningOpenVino]:
        command = [self.python, "-m", "tests.peers.openvino_process", self.folder, str(self.threads)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            if process.stdout.readline().strip() != READY:
                raise RuntimeError(f"{command!r} does not start")
            yield RunningOpenVino(process.pid, process.stdin, process.stdout)  # ends when its input does


@dataclass(slots=True)
class _Open:
    """A request in the pipeline."""

    handle: Any
    sent: float
    num_tokens: int = 0
    events: list[float] = field(default_factory=list)


def run(pipeline: Any, genai: Any, tensor: Any, workload: Workload) -> Figures:
    config = genai.GenerationConfig(max_new_tokens=workload.output_tokens, ignore_eos=True)
    config.do_sample = workload.temperature > 0
    config.temperature = workload.temperature or 1.0
    waiting = list(range(workload.num_requests))[::-1]
    running: list[_Open] = []
    answers: list[Answer] = []
    while waiting or running:
        while waiting and len(running) < workload.concurrency:
            number, sent = waiting.pop(), time.perf_counter()
            handle = pipeline.add_request(number, tensor([workload.prompt(number)]), config)
            running.append(_Open(handle, sent))
        pipeline.step()
        answers += _read(running, workload)
        running = [request for request in running if request.num_tokens < workload.output_tokens]
    return Figures.of(answers)


def _read(running: list[_Open], workload: Workload) -> Iterator[Answer]:
    """Notes the tokens that came; gives the answers that are whole."""
    now = time.perf_counter()
    for request in running:
        while request.handle.can_read():
            request.num_tokens += sum(len(output.generated_ids) for output in request.handle.read().values())
            request.events.append(now)
        if request.num_tokens >= workload.output_tokens:
            yield Answer(request.sent, tuple(request.events), workload.prompt_tokens, request.num_tokens)


def main(folder: str, threads: int) -> None:
    genai, openvino, numpy = map(importlib.import_module, ("openvino_genai", "openvino", "numpy"))
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = CACHE_GIB
    scheduler.max_num_batched_tokens = 1024
    pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads})
    sys.stdout.write(READY + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        tensor = lambda ids: openvino.Tensor(numpy.array(ids, numpy.int64))  # noqa: E731
        sys.stdout.write(json.dumps(asdict(run(pipeline, genai, tensor, Workload(**json.loads(line))))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
