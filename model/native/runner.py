"""The native backend's `Runner`: one call of the library for each step.

Owns the library's runner and model, and frees them. The slots' state and the order of a step are the library's; who
runs and which blocks are whose, the engine's.
"""

import logging
import weakref
from collections.abc import Sequence

import numpy as np

from model.batch import Batch, Chunk, RunnerInfo, StepOutput
from model.context_length import choose_max_model_len
from model.errors import ModelError
from model.formats.adapter import Adapter
from model.formats.checkpoint import Checkpoint
from model.isolation import log_violations
from model.memory import KVDemand, choose_num_blocks, free_memory
from model.native.library import NativeError, NativeLibrary
from model.native.options import CHECKS, KV_NAMES, NativeOptions, choose_kv_type, choose_num_threads, pins_threads
from model.native.step_arrays import BatchArrays, ResultArrays, Wants, read_violation
from model.native.structs import RunnerOptionsStruct
from model.native.weights import NativeModel

__all__ = ["NativeOptions", "NativeRunner"]

BLOCK_SIZE = 32  # token positions

log = logging.getLogger(__name__)


class NativeRunner:
    """Implements `model.batch.Runner`. Threads may take turns; it is not for two at a time."""

    def __init__(self, checkpoint: Checkpoint, options: NativeOptions, adapters: Sequence[Adapter] = ()) -> None:
        """`adapters`: those that a slot may be opened with, the first as number 1.

        Raises NativeUnavailable where this backend cannot do what is asked, ModelError where none could.
        """
        self._library = NativeLibrary.open(options.library)
        kv_type = choose_kv_type(options.kv_dtype)
        max_model_len = choose_max_model_len(options.max_model_len, checkpoint)
        num_threads = choose_num_threads(options.num_threads)
        model = NativeModel(self._library, checkpoint, options, adapters)
        self._checks = CHECKS[options.isolation_checks]
        block_bytes = self._library.block_bytes(model.address, kv_type, self._checks)
        demand = KVDemand(BLOCK_SIZE, block_bytes, options.max_num_seqs, max_model_len, model.num_bytes)
        num_blocks = choose_num_blocks(checkpoint.path, demand, free_memory(), options.kv_cache_memory)
        struct = RunnerOptionsStruct(
            kv_type=kv_type,
            num_blocks=num_blocks,
            num_threads=num_threads,
            max_num_tokens=max(options.max_num_batched_tokens, options.max_num_seqs),
            poison=options.debug_poison,
            pin=pins_threads(num_threads),
            checks=self._checks,
        )
        self._address = _new_runner(self._library, model, struct, checkpoint)
        weakref.finalize(self, _free, self._library, self._address, model).atexit = False  # the system does it faster
        self._wants: dict[int, Wants] = {}  # of the open slots that want anything
        self.num_weight_bytes = model.num_bytes
        used = options.instruction_set or self._library.instruction_sets()[0]
        self._info = RunnerInfo(
            backend="native",
            device="cpu",
            dtype=model.dtype,
            kv_dtype=KV_NAMES[kv_type],
            num_threads=num_threads,
            vocab_size=checkpoint.config.vocab_size,
            max_model_len=max_model_len,
            block_size=BLOCK_SIZE,
            num_blocks=num_blocks,
            block_bytes=block_bytes,
            hidden_size=checkpoint.config.hidden_size,
            instruction_set=used,
        )
        log.info("the native backend computes, with %s and %.1f MB of weights", used, model.num_bytes / 1e6)

    @property
    def info(self) -> RunnerInfo:
        return self._info

    def run(self, batch: Batch) -> StepOutput:
        for freed in batch.freed:
            self._wants.pop(freed.slot, None)
        for opened in batch.opened:
            if wants := Wants.of(opened):
                self._wants[opened.slot] = wants
        return self._step(batch)

    def logits(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """Takes the chunks into their slots: logits float32 [S, V] behind the last token of each that samples."""
        logits = np.empty((sum(chunk.samples for chunk in chunks), self._info.vocab_size), dtype=np.float32)
        self._step(Batch(chunks=tuple(chunks)), logits)
        return logits

    def contents(self, block_id: int) -> np.ndarray:
        """All bytes of a block, a view; for checks."""
        return self._library.block(self._address, block_id, self._info.block_bytes)

    def misplace(self, slot: int, index: int, block_id: int) -> None:
        """Takes another block for the slot's, whoever owns it: for tests of the isolation checks."""
        self._library.misplace(self._address, slot, index, block_id)

    def profile(self) -> dict[str, int]:
        """Nanoseconds that each part of the steps so far has taken."""
        return self._library.profile(self._address)

    def _step(self, batch: Batch, logits: np.ndarray | None = None) -> StepOutput:
        arrays, results = BatchArrays.of(batch), ResultArrays(batch.chunks, self._wants, self._info.hidden_size)
        try:
            self._library.step(self._address, arrays.struct, results.structs, logits)
        finally:
            if self._checks:
                log_violations(map(read_violation, self._library.violations(self._address)))
        return StepOutput(results.read())


def _new_runner(
    library: NativeLibrary, model: NativeModel, options: RunnerOptionsStruct, checkpoint: Checkpoint
) -> int:
    try:
        return library.new_runner(model.address, options)
    except NativeError as error:
        raise ModelError(
            checkpoint.path,
            f"the native backend cannot start: {error}; a smaller --kv-cache-memory or fewer --threads may do.",
        ) from error


def _free(library: NativeLibrary, runner: int, _model: NativeModel) -> None:
    """The runner first: it reads the model's weights, which go with `_model`."""
    library.free_runner(runner)
