"""`python -m tests.peers.adapters [native|torch]`: what adapters cost in a decode step of 32 rows, on a random model of
MiniMind-3's shape: all rows without one, all with the same, and with eight in turn. The kinds of steps take turns
so that what else the machine does falls on all of them; ratios of their medians are printed, and no times.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence

from model.batch import Chunk, OpenedSlot, Runner, SamplingParams
from model.config import ModelConfig, RopeConfig
from model.formats.adapter import Adapter
from model.formats.checkpoint import Checkpoint
from model.native.runner import NativeOptions, NativeRunner
from model.options import WeightsName
from model.torch_backend.runner import TorchOptions, TorchRunner
from tests.model.adapters import LAYER_MATRICES, random_adapter
from tests.model.random_checkpoint import random_checkpoint
from tests.model.runners import prompt_of
from tests.model.torch_backend.driver import Driver

MINIMIND_3 = ModelConfig(
    architecture="qwen3",
    vocab_size=6400,
    hidden_size=768,
    intermediate_size=2432,
    num_layers=8,
    num_heads=8,
    num_kv_heads=4,
    head_dim=96,
    rms_norm_eps=1e-6,
    max_positions=1024,
    rope=RopeConfig(theta=1e6),
    tie_word_embeddings=True,
    qk_norm=True,
)
NUM_ROWS, NUM_ADAPTERS, RANK, CONTEXT = 32, 8, 16, 64
NUM_STEPS = {"native": 60, "torch": 15}
ADAPTED = {"q, o (MiniMind's)": ("q_proj", "o_proj"), "all seven": LAYER_MATRICES}
KINDS = {
    "none": [0] * NUM_ROWS,
    "one": [1] * NUM_ROWS,
    "eight": [1 + row % NUM_ADAPTERS for row in range(NUM_ROWS)],
}
MEMORY, NUM_SLOTS = 2**30, len(KINDS) * NUM_ROWS
RUNNERS: dict[str, dict[str, Callable[[Checkpoint, Sequence[Adapter]], Runner]]] = {
    "native": {
        "bfloat16": lambda *model: NativeRunner(model[0], native_options(weights="auto"), model[1]),
        "int8": lambda *model: NativeRunner(model[0], native_options(weights="int8"), model[1]),
    },
    "torch": {
        "float32": lambda *model: TorchRunner(
            model[0], TorchOptions(device="cpu", max_num_seqs=NUM_SLOTS, kv_cache_memory=MEMORY), model[1]
        )
    },
}


def native_options(weights: WeightsName) -> NativeOptions:
    return NativeOptions(weights=weights, max_num_seqs=NUM_SLOTS, kv_cache_memory=MEMORY)


def medians(runner: Runner, num_steps: int) -> dict[str, float]:
    """Seconds of a step, by its kind."""
    driver, chunks = Driver(runner), {}
    for place, (kind, numbers) in enumerate(KINDS.items()):
        slots = range(place * NUM_ROWS, (place + 1) * NUM_ROWS)
        for slot, number in zip(slots, numbers, strict=True):
            opened = OpenedSlot(slot, 1, CONTEXT, SamplingParams(temperature=0.0), adapter=number)
            driver.step([Chunk(slot, prompt_of(CONTEXT, slot))], [opened])
        chunks[kind] = [Chunk(slot) for slot in slots]
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(num_steps):
        for kind in KINDS:
            start = time.perf_counter()
            driver.step(chunks[kind])
            times[kind].append(time.perf_counter() - start)
    return {kind: statistics.median(some) for kind, some in times.items()}


def adapters_of(names: Sequence[str]) -> list[Adapter]:
    return [random_adapter(MINIMIND_3, seed, RANK, names) for seed in range(NUM_ADAPTERS)]


def main(backend: str = "native") -> None:
    checkpoint = random_checkpoint(MINIMIND_3, 0)
    for weights, new_runner in RUNNERS[backend].items():
        for adapted, names in ADAPTED.items():
            seen = medians(new_runner(checkpoint, adapters_of(names)), NUM_STEPS[backend])
            ratios = f"one/none {seen['one'] / seen['none']:.3f}, eight/one {seen['eight'] / seen['one']:.3f}"
            sys.stdout.write(f"{backend}, {weights}, rank {RANK} on {adapted}: {ratios}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
