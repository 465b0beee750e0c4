"""A program: the runner, as the engine uses it, on tiny random models. Prints the instruction sets that this processor
has, then the tokens of each model, computed with the best of them or the one that is named. test_processors.py starts
it under an emulator; torch is not imported."""

import sys
from itertools import product

from model.batch import SamplingParams
from model.native.library import NativeLibrary
from model.native.runner import NativeOptions, NativeRunner
from tests.model.random_checkpoint import LLAMA, QWEN3_MOE, random_checkpoint
from tests.model.torch_backend.driver import Driver

WEIGHTS = (
    {"dtype": "float32"},
    {"dtype": "bfloat16"},
    {"dtype": "auto", "weights": "int8"},
    {"dtype": "auto", "weights": "int4"},
)
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, repetition_penalty=1.1, seed=7, num_logprobs=2)
PROMPT = [17 * i % 331 for i in range(40)]


def main(instruction_set: str | None = None) -> None:
    say(" ".join(NativeLibrary.open().instruction_sets()))
    for config, weights, kv_dtype in product((LLAMA, QWEN3_MOE), WEIGHTS, ("float32", "bfloat16", "int8")):
        options = NativeOptions(
            num_threads=2,
            kv_cache_memory=2**20,
            kv_dtype=kv_dtype,
            instruction_set=instruction_set,
            **weights,  # type: ignore[arg-type]
        )
        say(str(Driver(NativeRunner(random_checkpoint(config, 3), options)).generate(PROMPT, SAMPLED, 4)))
    assert "torch" not in sys.modules


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
