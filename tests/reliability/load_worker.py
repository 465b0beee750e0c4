"""A process that loads models whose files are not to be trusted, one after the other, under a limit of memory, and lets
each that loads answer. A case is a line of JSON on its input, what came of it a line on its output; a crash, and time
without end, are for the parent to see.

What a sound file would never make the process do is seen by an audit hook: start a program, open a connection, change a
file, look up a name for a pickle that is none of torch's own.
"""

import json
import os
import resource
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil
import torch  # noqa: F401  (here, so that no case pays for it)

import model.formats.huggingface
import model.formats.minimind
import model.native.runner
import model.torch_backend.runner  # noqa: F401
from model.batch import Batch, Chunk, FreedSlot, GrownSlot, OpenedSlot, SamplingParams
from model.chat_template import ChatTemplateError
from model.errors import ModelError
from model.load import LoadedModel, load
from model.options import LoadOptions

MOST_MEMORY = 1 << 30  # bytes of address space beyond what the process has when it begins
MOST_GROWTH = 300 << 20  # bytes in memory, of one case
LONGEST_MESSAGE = 1200  # characters behind the path
STEPS = 3
_EXECUTION = ("os.system", "subprocess.", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.", "socket.")
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink", "shutil.")


@dataclass(frozen=True, slots=True)
class Outcome:
    kind: str  # loaded, refused; anything else is a finding
    detail: str = ""


class Audit:
    """What happened while a case was on."""

    def __init__(self) -> None:
        self.is_on = False
        self.seen: list[str] = []
        sys.addaudithook(self._look)

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event.startswith((*_EXECUTION, *_CHANGES)):
            self.seen.append(f"{event} {arguments!r}"[:200])


def run_case(case: Mapping[str, Any], audit: Audit) -> Outcome:
    """`case`: path, backend."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory is this case's own
    before = psutil.Process().memory_info().rss
    audit.seen.clear()
    audit.is_on = True
    try:
        outcome = _load_and_run(case)
    except BaseException as error:  # a panic of a Rust library is no Exception
        where = traceback.extract_tb(error.__traceback__)[-1]
        trace = "".join(traceback.format_exception(error))
        outcome = Outcome(f"raised {type(error).__name__} at {Path(where.filename).name}:{where.lineno}", trace[-3000:])
    finally:
        audit.is_on = False
    if audit.seen:
        return Outcome("executed", "; ".join(audit.seen[:5]))
    growth = _peak() - before
    return outcome if growth < MOST_GROWTH else Outcome("memory", f"{growth:,} bytes; {outcome.kind} {outcome.detail}")


def _peak() -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def _load_and_run(case: Mapping[str, Any]) -> Outcome:
    options = LoadOptions(
        model=case["path"],
        backend=case["backend"],
        device="cpu",
        num_threads=1,
        kv_cache_memory=4 << 20,
        max_num_seqs=2,
        max_num_batched_tokens=16,
    )
    try:
        loaded = load(options)
    except ModelError as error:
        return _judge(error, Path(case["path"]))
    _answer(loaded)
    return Outcome("loaded")


def _judge(error: ModelError, path: Path) -> Outcome:
    message = str(error)
    folder = path if path.is_dir() else path.parent
    if "\n" in message or len(error.problem) > LONGEST_MESSAGE:
        return Outcome("message too long", message)
    if error.path not in (path, folder) and error.path.parent != folder:
        return Outcome("message names no file", message)
    if "MemoryError" in message or "std::" in message:
        return Outcome("message of an accident", message)
    return Outcome("refused", error.problem)


def _answer(loaded: LoadedModel) -> None:
    """A prompt, as a server would take it, and a few tokens."""
    text = "Hello, world <|im_end|>"
    if loaded.chat_template:
        try:
            text = loaded.chat_template.render([{"role": "user", "content": text}])
        except ChatTemplateError:
            """It refuses this chat."""
    vocab_size = loaded.runner.info.vocab_size
    prompt = loaded.tokenizer.encode(text)[:8] or [0, vocab_size - 1]
    assert all(0 <= token_id < vocab_size for token_id in prompt), prompt
    room = (loaded.runner.info.num_blocks, loaded.runner.info.max_model_len)
    num_tokens = min(len(prompt), room[1] - STEPS)
    if room[0] < 1 or num_tokens < 1:
        return
    tokens = _run(loaded, prompt[:num_tokens])
    loaded.tokenizer.decode([*prompt, *tokens])
    for token_id in tokens:
        loaded.tokenizer.name(token_id)


def _run(loaded: LoadedModel, prompt: Sequence[int]) -> list[int]:
    opened = OpenedSlot(0, 1, len(prompt), SamplingParams(temperature=0.0, num_logprobs=2))
    batch = Batch(opened=(opened,), grown=(GrownSlot(0, (0,)),), chunks=(Chunk(0, tuple(prompt)),))
    tokens = []
    for _ in range(STEPS):
        (result,) = loaded.runner.run(batch).results
        if result.token_id is None:
            assert result.error, result
            break
        assert 0 <= result.token_id < loaded.runner.info.vocab_size, result
        tokens.append(result.token_id)
        batch = Batch(chunks=(Chunk(0),))
    loaded.runner.run(Batch(freed=(FreedSlot(0, (0,)),)))
    return tokens


def limit_memory() -> None:
    limit = psutil.Process().memory_info().vms + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(answers: TextIO) -> None:
    audit = Audit()
    limit_memory()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(run_case(json.loads(line), audit))), file=answers, flush=True)


if __name__ == "__main__":
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    main(stream)
