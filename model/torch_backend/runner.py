"""The torch backend's `Runner`: one batch in, one forward pass over all its tokens, one result for each chunk out.

Owns the transformer, the cache and the slots' state, and the order of a step: free and destroy, open and grow, compute,
sample. Decides nothing about who runs or which blocks are whose; the engine does.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from model.batch import NOT_FINITE, Batch, Chunk, ChunkResult, RunnerInfo, StepOutput
from model.context_length import choose_max_model_len
from model.cpu import num_usable_cores
from model.errors import ModelError
from model.formats.adapter import Adapter
from model.formats.checkpoint import Checkpoint
from model.isolation import log_violations
from model.memory import KVDemand, choose_num_blocks, free_memory, require_room_for_weights
from model.torch_backend.attention import Span, view_cache
from model.torch_backend.isolation import IsolationChecks
from model.torch_backend.kv_cache import BLOCK_SIZE, KVCache, KVLayout
from model.torch_backend.layers import AdaptedRows
from model.torch_backend.logprobs import report_targets
from model.torch_backend.options import DTYPES, TorchOptions, choose_device, choose_dtype
from model.torch_backend.sampling import sample
from model.torch_backend.slots import SlotTable
from model.torch_backend.weights import build_transformer

__all__ = ["TorchOptions", "TorchRunner"]


class TorchRunner:
    """Implements `model.batch.Runner`. Threads may take turns; it is not for two at a time."""

    def __init__(self, checkpoint: Checkpoint, options: TorchOptions, adapters: Sequence[Adapter] = ()) -> None:
        """`adapters`: those that a slot may be opened with, the first as number 1.

        Raises ModelError where model, options and machine do not go together.
        """
        max_model_len = choose_max_model_len(options.max_model_len, checkpoint)
        self._device = choose_device(options.device, checkpoint)
        dtype = choose_dtype(options.dtype, checkpoint, self._device)
        self._num_heads = checkpoint.config.num_heads
        self._vocab_size = checkpoint.config.vocab_size
        self._attention_dtype = torch.float32 if self._device.type == "cpu" else dtype  # bfloat16 is slower on a CPU
        torch.set_num_threads(options.num_threads or num_usable_cores())
        num_weight_bytes = checkpoint.num_parameters * dtype.itemsize
        num_weight_bytes += sum(adapter.num_bytes for adapter in adapters)
        require_room_for_weights(checkpoint.path, num_weight_bytes, _free_memory(self._device))
        self._transformer = build_transformer(checkpoint, self._device, dtype, adapters)
        kv_dtype = dtype if options.kv_dtype == "auto" else DTYPES[options.kv_dtype]
        layout = KVLayout.of(checkpoint.config, kv_dtype, has_stamp=options.isolation_checks != "off")
        demand = KVDemand(BLOCK_SIZE, layout.block_bytes, options.max_num_seqs, max_model_len, num_weight_bytes)
        self._cache = _build_cache(checkpoint, options, layout, demand, self._device)
        self._slots = SlotTable()
        self._isolation = IsolationChecks(self._cache, self._slots, options.isolation_checks)
        self._info = RunnerInfo(
            backend="torch",
            device=str(self._device),
            dtype=_name(dtype),
            kv_dtype=_name(layout.dtype),
            num_threads=torch.get_num_threads(),
            vocab_size=checkpoint.config.vocab_size,
            max_model_len=max_model_len,
            block_size=BLOCK_SIZE,
            num_blocks=self._cache.num_blocks,
            block_bytes=layout.block_bytes,
            hidden_size=checkpoint.config.hidden_size,
            instruction_set=torch.backends.cpu.get_cpu_capability().lower() if self._device.type == "cpu" else "",
        )

    @property
    def info(self) -> RunnerInfo:
        return self._info

    @torch.inference_mode()
    def run(self, batch: Batch) -> StepOutput:
        self._cache.destroy(self._slots.free(batch))
        self._slots.grow(batch)
        try:
            results = self._compute(self._isolation.before_computing(batch))
            return StepOutput(self._isolation.after_computing(batch.chunks, results))
        finally:
            log_violations(self._isolation.violations)

    @torch.inference_mode()
    def logits(self, chunks: Sequence[Chunk]) -> Tensor:
        """Takes the chunks into their slots: logits [S, V] behind the last token of each that samples."""
        return self._last_logits(chunks, *self._take(chunks))

    def contents(self, block_id: int) -> Tensor:
        """All numbers of a block, a view; for checks."""
        return self._cache.contents(block_id)

    def misplace(self, slot: int, index: int, block_id: int) -> None:
        """Takes another block for the slot's, whoever owns it: for tests of the isolation checks."""
        self._slots[slot].block_ids[index] = block_id

    def _compute(self, chunks: Sequence[Chunk]) -> tuple[ChunkResult, ...]:
        if not chunks:
            return ()
        hidden, ends = self._take(chunks)
        results = self._sample(chunks, self._last_logits(chunks, hidden, ends))
        reports = zip(chunks, ends, results, strict=True)
        return tuple(self._report_prompt(chunk, hidden, end, result) for chunk, end, result in reports)

    def _take(self, chunks: Sequence[Chunk]) -> tuple[Tensor, list[int]]:
        """Takes the chunks into their slots: hidden states [T, E] of their tokens, and where in T each chunk ends."""
        tokens = [self._slots[chunk.slot].tokens_of(chunk) for chunk in chunks]
        hidden = self._forward(chunks, tokens)
        for chunk, token_ids in zip(chunks, tokens, strict=True):
            self._slots[chunk.slot].append(token_ids)
        return hidden, list(accumulate(map(len, tokens)))

    def _last_logits(self, chunks: Sequence[Chunk], hidden: Tensor, ends: Sequence[int]) -> Tensor:
        last_rows = [end - 1 for end, chunk in zip(ends, chunks, strict=True) if chunk.samples]
        return self._transformer.logits(hidden[self._tensor(last_rows)])

    def _forward(self, chunks: Sequence[Chunk], tokens: Sequence[Sequence[int]]) -> Tensor:
        first_rows = accumulate(map(len, tokens), initial=0)
        spans = [
            self._slots[chunk.slot].span(first_row, len(token_ids))
            for chunk, first_row, token_ids in zip(chunks, first_rows, tokens, strict=False)
        ]
        flat = [token_id for token_ids in tokens for token_id in token_ids]
        assert min(flat) >= 0 and max(flat) < self._vocab_size, (min(flat), max(flat))
        positions = [p for span in spans for p in range(span.first_position, span.end)]
        view = view_cache(self._cache, spans, self._num_heads, self._attention_dtype)
        adapted = self._adapted(chunks, spans)
        return self._transformer.forward(self._tensor(flat), self._tensor(positions), view, adapted)

    def _adapted(self, chunks: Sequence[Chunk], spans: Sequence[Span]) -> list[AdaptedRows]:
        rows = defaultdict[int, list[int]](list)  # by the number of their slot's adapter
        for chunk, span in zip(chunks, spans, strict=True):
            rows[self._slots[chunk.slot].opened.adapter] += range(span.first_row, span.first_row + span.num_tokens)
        return [AdaptedRows(number - 1, self._tensor(some)) for number, some in sorted(rows.items()) if number]

    def _sample(self, chunks: Sequence[Chunk], logits: Tensor) -> tuple[ChunkResult, ...]:
        """A result for each chunk, an empty one where it does not sample. logits [S, V] of those that do."""
        sampling = [chunk for chunk in chunks if chunk.samples]
        sampled = sample(logits, [self._slots[chunk.slot].sampling_row(chunk) for chunk in sampling])
        for chunk, result in zip(sampling, sampled, strict=True):
            self._slots[chunk.slot].last_token_id = result.token_id
        results = iter(sampled)
        return tuple(next(results) if chunk.samples else ChunkResult() for chunk in chunks)

    def _report_prompt(self, chunk: Chunk, hidden: Tensor, end: int, result: ChunkResult) -> ChunkResult:
        """The chunk's result, with what is wanted of its own tokens, which end there in hidden [T, E]."""
        slot = self._slots[chunk.slot]
        if not chunk.targets and slot.mean is None:
            return result
        own = hidden[end - chunk.num_tokens : end]
        num_top = slot.opened.sampling.num_prompt_logprobs
        targets = report_targets(self._transformer, own, chunk.targets, num_top)
        mean = None if slot.mean is None else slot.mean.extend(self._transformer.final(own))
        if targets is None or (mean is not None and not mean.isfinite().all()):
            return ChunkResult(error=NOT_FINITE)
        return replace(result, targets=targets, pooled=None if mean is None else tuple(mean.tolist()))

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._device)


def _free_memory(device: torch.device) -> int:
    return free_memory() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]


def _build_cache(
    checkpoint: Checkpoint, options: TorchOptions, layout: KVLayout, demand: KVDemand, device: torch.device
) -> KVCache:
    num_blocks = choose_num_blocks(checkpoint.path, demand, _free_memory(device), options.kv_cache_memory)
    try:
        return KVCache(layout, num_blocks, device, options.debug_poison)
    except (OSError, torch.OutOfMemoryError) as error:
        raise ModelError(
            checkpoint.path,
            f"the system refuses {num_blocks * layout.block_bytes:,} bytes for the KV cache ({error}); "
            "a smaller --kv-cache-memory may do.",
        ) from error


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
