"""`python -m tests.reliability.fuzz_files --minutes 10`: sound models of each format, their files damaged and forged,
loaded in a process that may die of it (`load_worker.py`) and, where they load, run. What is neither an answer nor a
ModelError in one short paragraph is a finding: kept with its files under --keep, and exit status 1."""

import argparse
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

from tests.model.minimind_data import GOLDEN, MINIMIND
from tests.reliability import model_files
from tests.reliability.load_worker import Outcome
from tests.reliability.model_files import Files
from tests.reliability.mutations import mutate

ROOT = Path(__file__).parents[2]
FORMATS = ("gguf", "safetensors", "pth")
GOOD = ("loaded", "refused")
CASES_OF_A_WORKER = 300
MOST_CPU_SECONDS, MOST_SECONDS = 15.0, 90.0  # of one case; a template may take five
SHARE_OF_TORCH = 0.15  # the cases that the torch backend loads


class Worker:
    """A process that answers cases, started anew when it has died, hangs, or has answered many."""

    def __init__(self, folder: Path, command: Sequence[str] = ("-m", "tests.reliability.load_worker")) -> None:
        self._command = [sys.executable, *command]
        self._folder = folder  # its working directory: where a canary would sit
        self._process: subprocess.Popen[str] | None = None
        self._num_cases = 0

    def run(self, path: Path, backend: str) -> Outcome:
        if self._process is None or self._num_cases >= CASES_OF_A_WORKER:
            self.close()
            self._start()
        assert self._process is not None
        assert self._process.stdin
        self._num_cases += 1
        before = self._cpu_seconds()
        self._process.stdin.write(json.dumps({"path": str(path), "backend": backend}) + "\n")
        self._process.stdin.flush()
        deadline = time.monotonic() + MOST_SECONDS
        while not (line := self._line()):
            if self._process.poll() is not None:
                return self._died()
            if time.monotonic() > deadline or self._cpu_seconds() - before > MOST_CPU_SECONDS:
                self.close()
                return Outcome("timeout", f"{MOST_CPU_SECONDS:g} s of CPU, or {MOST_SECONDS:g} s in all")
        return Outcome(**json.loads(line))

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
        with (self._folder / "stderr").open("w") as errors:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
            )
        assert self._process.stdout
        self._num_cases = 0
        assert self._process.stdout.readline() == "ready\n", (self._folder / "stderr").read_text()

    def _line(self) -> str:
        """The next, or nothing where none comes for a moment."""
        assert self._process
        assert self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return self._process.stdout.readline() if selector.select(0.5) else ""

    def _cpu_seconds(self) -> float:
        assert self._process
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def _died(self) -> Outcome:
        assert self._process
        status = self._process.returncode
        self.close()
        return Outcome(f"died with status {status}", (self._folder / "stderr").read_text()[-2000:])


@dataclass(frozen=True, slots=True)
class Finding:
    number: int
    format: str
    what_was_done: str
    outcome: Outcome


@dataclass(slots=True)
class Tally:
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # format, outcome
    refusals: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def num_cases(self) -> int:
        return sum(self.counts.values())


def seeds_of(format: str, folder: Path) -> list[Callable[[], Files]]:
    match format:
        case "gguf":
            made = [("llama", "F32"), ("llama", "Q8_0"), ("qwen2", "Q4_0"), ("qwen3", "BF16"), ("qwen3moe", "F16")]
            made += [("llama", "Q4_K"), ("qwen3", "Q6_K")]
            sizes = {"hidden_size": 256, "intermediate_size": 256, "num_heads": 8}
            contents = []
            for architecture, encoding in made:
                changes = sizes if "_K" in encoding else {}
                contents.append(
                    model_files.saved(model_files.writer(architecture, encoding, **changes), folder / "seed")
                )
            return [lambda content=content: {"model.gguf": content} for content in contents]  # type: ignore[misc]
        case "safetensors":
            return [
                lambda: model_files.folder("llama"),
                lambda: model_files.folder("qwen2", "float16"),
                lambda: model_files.folder("qwen3", is_sharded=True),
            ]
    if not GOLDEN.is_dir():
        return [model_files.minimind]
    files = {file.name: file.read_bytes() for file in (MINIMIND / "tokenizers" / "v3").iterdir() if file.is_file()}
    goldens = (GOLDEN / "v3" / "full_sft_64.pth", GOLDEN / "v1-moe" / "full_sft_64_moe.pth")
    contents = [files | {"model.pth": golden.read_bytes()} for golden in goldens]
    return [model_files.minimind] * 5 + [lambda content=content: content for content in contents]  # type: ignore[misc]


@contextmanager
def working_folder() -> Iterator[Path]:
    """In memory where that is possible: a case is a few hundred kilobytes."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="fuzz-files-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def fuzz(
    seed: int, formats: Sequence[str], goes_on: Callable[[Tally], bool], keep: Path | None, first: int = 0
) -> Tally:
    """Case n of a seed is the same whichever come before it."""
    tally, number = Tally(), first
    with working_folder() as folder:
        seeds = {format: seeds_of(format, folder) for format in formats}
        worker = Worker(folder)
        try:
            while goes_on(tally):
                random = Random(f"{seed} {number}")
                format = formats[number % len(formats)]
                files, what_was_done = mutate(random.choice(seeds[format])(), random)
                backend = "torch" if random.random() < SHARE_OF_TORCH else "native"
                case = folder / "case"
                outcome = worker.run(model_files.write(files, case), backend)
                if (folder / "canary").exists() or (case / "canary").exists():
                    outcome = Outcome("executed", "the canary is there")
                    (folder / "canary").unlink(missing_ok=True)
                _count(tally, Finding(number, format, f"{what_was_done}; {backend}", outcome), case, keep)
                shutil.rmtree(case)
                number += 1
        finally:
            worker.close()
    return tally


def _count(tally: Tally, result: Finding, case: Path, keep: Path | None) -> None:
    tally.counts[result.format, result.outcome.kind] += 1
    if result.outcome.kind in GOOD:
        tally.refusals[result.outcome.detail[:60]] += 1
        return
    tally.findings.append(result)
    print(f"case {result.number} ({result.format}: {result.what_was_done}): {result.outcome.kind}", flush=True)  # noqa: T201
    if keep:
        place = keep / f"{result.format}-{result.number}"
        shutil.copytree(case, place, dirs_exist_ok=True)
        (place / "finding.txt").write_text(f"{result.what_was_done}\n{result.outcome.kind}\n{result.outcome.detail}\n")


def show(tally: Tally, seconds: float) -> None:
    print(f"{tally.num_cases} cases in {seconds / 60:.1f} minutes, {len(tally.findings)} findings")  # noqa: T201
    for (format, kind), number in sorted(tally.counts.items()):
        print(f"  {format:12} {kind:40} {number:7}")  # noqa: T201
    print(f"{len(tally.refusals)} different messages, by their beginnings")  # noqa: T201


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.fuzz_files", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FORMATS, help="one format")
    parser.add_argument("--keep", type=Path, help="a folder for findings")
    parser.add_argument("--case", type=int, help="only the case of this number (with the same --seed and --only)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of zipfile and torch, about what is damaged on purpose
    formats = [arguments.only] if arguments.only else FORMATS
    start = time.monotonic()
    if arguments.case is not None:
        tally = fuzz(arguments.seed, formats, lambda tally: not tally.counts, arguments.keep, arguments.case)
    else:
        end = start + 60 * arguments.minutes
        tally = fuzz(arguments.seed, formats, lambda _: time.monotonic() < end, arguments.keep)
    show(tally, time.monotonic() - start)
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
