"""`python -m tests.peers.perplexity MODEL [options of slotwise serve]`: how well a backend predicts technical English.

The text is Python's own language reference as `pydoc_data.topics` has it: 20,000 tokens of it in windows of 512, each
read from an empty slot, 32 windows at once, a token of each in a step. So every product, every cache line and every
position is what a busy server computes. Prompts and answers may be computed in different ways, so every token is read
as either, which `--as` says. `--against torch` steps the float32 reference through the same tokens.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pydoc_data.topics import topics
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from app.arguments import Parser, add_options, read_settings
from app.settings import ServeSettings
from model.batch import (
    Batch,
    Chunk,
    FreedSlot,
    GrownSlot,
    OpenedSlot,
    Runner,
    RunnerInfo,
    SamplingParams,
    num_blocks_for,
)
from model.load import load
from model.options import LoadOptions

WINDOW = 512  # tokens
SLOTS = 32
PROGRESS = 128  # tokens of a window between two lines that say how far it is
Floats = NDArray[np.float32]


class LogitsRunner(Runner, Protocol):
    def logits(self, chunks: Sequence[Chunk]) -> object:
        """[S, V] behind the last token of each chunk that samples; an array, or a tensor on the CPU."""
        ...


@dataclass(slots=True)
class Score:
    """Of one backend, summed over tokens; and beside a reference where there is one."""

    num_tokens: int = 0
    nats: float = 0.0  # - Σ ln p(token)
    reference_nats: float = 0.0
    num_agreed: int = 0  # the most likely token is the reference's
    differences: list[Floats] = field(default_factory=list)  # |Δ ln p(token)|

    def add(self, logits: Floats, next_ids: Sequence[int], reference: Floats | None) -> None:
        """logits [S, V] of a step, and what came next."""
        logprobs = logprobs_of(logits, next_ids)
        self.num_tokens += len(next_ids)
        self.nats -= float(logprobs.sum())
        if reference is not None:
            expected = logprobs_of(reference, next_ids)
            self.reference_nats -= float(expected.sum())
            self.num_agreed += int((logits.argmax(1) == reference.argmax(1)).sum())
            self.differences.append(np.abs(logprobs - expected))

    def lines(self) -> Iterator[str]:
        perplexity = math.exp(self.nats / self.num_tokens)
        yield f"perplexity {perplexity:.4f} over {self.num_tokens} tokens"
        if self.differences:
            reference = math.exp(self.reference_nats / self.num_tokens)
            differences = np.concatenate(self.differences)
            yield f"reference  {reference:.4f}, so {perplexity / reference - 1:+.3%}"
            yield f"greedy agreement {self.num_agreed / self.num_tokens:.2%}"
            yield f"|difference of a token's logprob| at most {differences.max():.4f}, mean {differences.mean():.5f}"


def logprobs_of(logits: Floats, token_ids: Sequence[int]) -> Floats:
    """[S]: the natural logarithm of each row's probability of its token."""
    highest = logits.max(1)
    chosen = logits[np.arange(len(token_ids)), token_ids]
    return cast(Floats, chosen - highest - np.log(np.exp(logits - highest[:, None]).sum(1)))


def windows_of(token_ids: Sequence[int], num_tokens: int) -> list[Sequence[int]]:
    """Whole windows with at least `num_tokens` in all."""
    count = math.ceil(num_tokens / WINDOW)
    assert len(token_ids) >= count * WINDOW, f"the text has only {len(token_ids)} tokens"
    return [token_ids[number * WINDOW : (number + 1) * WINDOW] for number in range(count)]


def logits_of(runner: LogitsRunner, windows: Sequence[Sequence[int]], num_prompt_tokens: int) -> Iterator[Floats]:
    """[S, V] behind each token but the first and the last of these windows, token by token."""
    slots = range(len(windows))
    blocks = blocks_of(runner.info, len(windows))
    sampling = SamplingParams(temperature=0.0)
    runner.run(
        Batch(
            opened=tuple(OpenedSlot(slot, 0, num_prompt_tokens, sampling) for slot in slots),
            grown=tuple(GrownSlot(slot, blocks[slot]) for slot in slots),
            chunks=tuple(Chunk(slot, (windows[slot][0],), samples=False) for slot in slots),
        )
    )
    for position in range(1, WINDOW - 1):
        yield as_array(runner.logits([Chunk(slot, (windows[slot][position],)) for slot in slots]))
    runner.run(Batch(freed=tuple(FreedSlot(slot, blocks[slot]) for slot in slots)))


def blocks_of(info: RunnerInfo, num_slots: int) -> list[tuple[int, ...]]:
    each = num_blocks_for(WINDOW, info.block_size)
    assert num_slots * each <= info.num_blocks, "the KV cache is too small; raise --kv-cache-memory"
    return [tuple(range(slot * each, (slot + 1) * each)) for slot in range(num_slots)]


def as_array(logits: object) -> Floats:
    """A tensor shares its memory with the array."""
    return np.asarray(logits, dtype=np.float32)


def score(
    runner: LogitsRunner, reference: LogitsRunner | None, windows: Sequence[Sequence[int]], num_prompt_tokens: int
) -> Score:
    total = Score()
    for first in range(0, len(windows), SLOTS):
        together = windows[first : first + SLOTS]
        expected = logits_of(reference, together, num_prompt_tokens) if reference else None
        for position, logits in enumerate(logits_of(runner, together, num_prompt_tokens), start=2):
            total.add(logits, [window[position] for window in together], next(expected) if expected else None)
            if position % PROGRESS == 0:
                show(f"windows {first + 1} to {first + len(together)} of {len(windows)}: {position} of {WINDOW} tokens")
        if expected:
            assert next(expected, None) is None
    return total


def show(line: str) -> None:
    sys.stderr.write(line + "\n")


def load_runner(options: LoadOptions) -> LogitsRunner:
    return cast(LogitsRunner, load(options).runner)


def float32_reference(options: LoadOptions) -> LoadOptions:
    """The same model in torch, with nothing rounded."""
    changes = {"backend": "torch", "device": "cpu", "dtype": "float32", "kv_dtype": "float32", "weights": "auto"}
    return replace(options, **changes)  # type: ignore[arg-type]


def main() -> None:
    parser = Parser(prog="python -m tests.peers.perplexity", description=__doc__)
    parser.add_argument("--tokens", type=int, default=20_000, metavar="N", help="at least so many, in windows of 512")
    parser.add_argument("--against", choices=["torch"], help="also compare with this, in float32")
    parser.add_argument("--as", choices=["answers", "prompts"], default="answers", help="what the text is taken for")
    add_options(parser, ServeSettings)
    arguments, unknown = parser.parse_known_args()
    given = {name: value for name, value in vars(arguments).items() if name not in ("tokens", "against", "as")}
    options = read_settings(parser, ServeSettings, given, unknown).load_options()
    loaded = load(options)
    text = "\n\n".join(topics[name] for name in sorted(topics))
    windows = windows_of(loaded.tokenizer.encode(text, add_special_tokens=False), arguments.tokens)
    reference = load_runner(float32_reference(options)) if arguments.against else None
    num_prompt_tokens = WINDOW if vars(arguments)["as"] == "prompts" else 1
    total = score(cast(LogitsRunner, loaded.runner), reference, windows, num_prompt_tokens)
    show(f"{loaded.name}: {loaded.runner.info}")
    sys.stdout.write("\n".join(total.lines()) + "\n")


if __name__ == "__main__":
    main()
