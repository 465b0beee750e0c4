"""The runners that must do the same, and what the tests of all of them share: in float32 on small random models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.batch import Chunk, ChunkResult, OpenedSlot, SamplingParams
from model.formats.adapter import Adapter
from model.formats.checkpoint import Checkpoint
from model.native.runner import NativeOptions, NativeRunner
from model.torch_backend.runner import TorchOptions, TorchRunner
from tests.model.native.library_here import needs_library
from tests.model.random_checkpoint import LLAMA, random_checkpoint
from tests.model.reading import ReadableRunner, Reader
from tests.model.torch_backend.driver import Driver

GREEDY = SamplingParams(temperature=0.0)

MAKERS: dict[str, Callable[..., ReadableRunner]] = {
    "native": lambda checkpoint, adapters, **options: NativeRunner(
        checkpoint,
        NativeOptions(dtype="float32", kv_dtype="float32", num_threads=2, debug_poison=True, **options),
        adapters,
    ),
    "torch": lambda checkpoint, adapters, **options: TorchRunner(
        checkpoint, TorchOptions(device="cpu", dtype="float32", num_threads=1, debug_poison=True, **options), adapters
    ),
    "torch-cuda": lambda checkpoint, adapters, **options: TorchRunner(
        checkpoint, TorchOptions(device="cuda", dtype="float32", debug_poison=True, **options), adapters
    ),
}
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
ON_EVERY_RUNNER = pytest.mark.parametrize(
    "backend",
    [
        pytest.param("native", marks=needs_library),
        "torch",
        pytest.param("torch-cuda", marks=[pytest.mark.cuda, NO_CUDA]),
    ],
)


def make_runner(
    backend: str, checkpoint: Checkpoint | None = None, adapters: Sequence[Adapter] = (), **options: Any
) -> ReadableRunner:
    checkpoint = checkpoint or random_checkpoint(LLAMA, 3)
    return MAKERS[backend](checkpoint, adapters, **{"kv_cache_memory": 2**21} | options)


def prompt_of(length: int, seed: int = 0, vocab_size: int = 331) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, vocab_size, length).tolist())


Said = Callable[[int], Mapping[str, Any]]  # what a chunk says beside its tokens, by the number of tokens that are out


def answer(
    driver: Driver,
    prompt: Sequence[int],
    params: SamplingParams,
    num_tokens: int,
    cuts: Sequence[int] = (),
    said: Said = lambda _: {},
) -> list[ChunkResult]:
    """One request alone, its prompt cut there; the results of the chunks that sample."""
    opened = [OpenedSlot(0, 1, len(prompt), params)]
    for start, end in zip([0, *cuts], cuts, strict=False):
        assert driver.step([Chunk(0, tuple(prompt[start:end]), samples=False)], opened) == (ChunkResult(),)
        opened = []
    results = [*driver.step([Chunk(0, tuple(prompt[cuts[-1] if cuts else 0 :]), **said(0))], opened)]
    while len(results) < num_tokens:
        results += driver.step([Chunk(0, **said(len(results)))])
    driver.step([], freed=[0])
    return results


def answer_in_pieces(
    driver: Driver, prompt: Sequence[int], params: SamplingParams, num_tokens: int, set_back_at: int
) -> list[ChunkResult]:
    """As `answer`, but set back when so many tokens are out, and taken up again in another slot."""
    opened = OpenedSlot(0, 1, len(prompt), params)
    results = [*driver.step([Chunk(0, tuple(prompt))], [opened])]
    while len(results) < set_back_at:
        results += driver.step([Chunk(0)])
    driver.step([], freed=[0])
    again = tuple(tokens_of(results))
    results += driver.step([Chunk(5, (*prompt, *again))], [replace(opened, slot=5)])
    while len(results) < num_tokens:
        results += driver.step([Chunk(5)])
    driver.step([], freed=[5])
    return results


def tokens_of(results: Sequence[ChunkResult]) -> list[int]:
    assert all(result.token_id is not None for result in results), results
    return [result.token_id for result in results if result.token_id is not None]


def logits_behind(runner: ReadableRunner, prompt: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """[N, V] of which each of the N tokens of an answer was chosen."""
    reader = Reader(runner, 1, len(prompt) + len(tokens))
    rows = [reader.feed(prompt), *(reader.feed([token]) for token in tokens[:-1])]
    reader.close()
    return torch.cat(rows)
