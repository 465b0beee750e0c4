"""Paged attention against plain softmax attention over each slot's own keys and values, kept beside the cache."""

import math

import pytest
import torch
from torch import Tensor

from model.batch import num_blocks_for
from model.torch_backend import attention
from model.torch_backend.attention import Span, view_cache
from model.torch_backend.kv_cache import BLOCK_SIZE, KVCache, KVLayout
from tests.model.torch_backend.devices import ON_EVERY_DEVICE

H, K, D = 6, 2, 8
LAYERS = 2
ROUNDING = 1e-6  # torch's batched products have other last bits in other company, on some processors


class Slots:
    """A poisoned cache in which some slots have pasts, in blocks that lie scattered, with the pasts kept beside it."""

    def __init__(
        self, lengths: list[int], device: str = "cpu", room: int = 400, dtype: torch.dtype = torch.float32
    ) -> None:
        per_slot = num_blocks_for(room, BLOCK_SIZE)
        layout = KVLayout(LAYERS, K, D, dtype)
        self.cache = KVCache(layout, per_slot * len(lengths), torch.device(device), poison=True)
        self.generator = torch.Generator().manual_seed(0)
        order = torch.randperm(per_slot * len(lengths), generator=self.generator).tolist()
        self.block_ids = [order[i * per_slot : (i + 1) * per_slot] for i in range(len(lengths))]
        self.pasts = [torch.empty(0, LAYERS, 2, K, D) for _ in lengths]  # [length, L, 2, K, D]
        for slot, length in enumerate(lengths):
            if length:
                self.step([(slot, length)])

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def step(self, chunks: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Of (slot, num_tokens) chunks: our outputs and the expected ones, [L, T, H*D] each."""
        spans, first_row = [], 0
        for slot, num_tokens in chunks:
            spans.append(Span(first_row, len(self.pasts[slot]), num_tokens, self.block_ids[slot]))
            first_row += num_tokens
        new, query = self.random(first_row, LAYERS, 2, K, D), self.random(LAYERS, first_row, H, D)
        view = view_cache(self.cache, spans, H, torch.float32)
        ours, device = [], self.cache.device
        for layer in range(LAYERS):
            view.append(layer, *new[:, layer].to(device).unbind(1))
            ours.append(view.attend(layer, query[layer].to(device)).cpu())
        for span, (slot, _) in zip(spans, chunks, strict=True):
            self.pasts[slot] = torch.cat((self.pasts[slot], new[span.first_row : span.first_row + span.num_tokens]))
        expected = [
            self.by_the_book(query[:, s.first_row : s.first_row + n], slot, n)
            for s, (slot, n) in zip(spans, chunks, strict=True)
        ]
        return torch.stack(ours), torch.cat(expected, 1)

    def by_the_book(self, query: Tensor, slot: int, num_tokens: int) -> Tensor:
        """[L, n, H, D], the slot's last n tokens -> [L, n, H*D]; one token and one head at a time."""
        past = self.pasts[slot].double()
        output = torch.empty(LAYERS, num_tokens, H, D, dtype=torch.float64)
        for layer in range(LAYERS):
            for i in range(num_tokens):
                seen = past[: len(past) - num_tokens + i + 1, layer]  # [length, 2, K, D]
                for head in range(H):
                    keys, values = seen[:, 0, head // (H // K)], seen[:, 1, head // (H // K)]
                    scores = keys @ query[layer, i, head].double() / math.sqrt(D)
                    output[layer, i, head] = scores.softmax(0) @ values
        return output.flatten(2).float()


STEPS = {
    "one token of an empty slot": ([0], [(0, 1)]),
    "one token at a block's end": ([31], [(0, 1)]),
    "one token that begins a block": ([32], [(0, 1)]),
    "a prompt": ([0], [(0, 70)]),
    "a prompt longer than a tile of queries": ([0], [(0, 300)]),
    "the second chunk of a prompt": ([37], [(0, 130)]),
    "decodes of many lengths": ([1, 31, 32, 33, 100, 250], [(i, 1) for i in range(6)]),
    "decodes and prompts, in no order": ([5, 0, 64, 10, 0], [(3, 1), (1, 33), (0, 1), (4, 33), (2, 40)]),
}


@ON_EVERY_DEVICE
@pytest.mark.parametrize("name", STEPS)
def test_every_token_attends_to_its_own_slot_up_to_itself(name: str, device: str) -> None:
    lengths, chunks = STEPS[name]
    ours, expected = Slots(lengths, device).step(chunks)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_each_tokens_output_is_written_once_and_padding_goes_to_the_row_behind_them() -> None:
    slots = Slots([0, 9])
    spans = [Span(0, 0, 45, slots.block_ids[0]), Span(45, 9, 1, slots.block_ids[1])]
    view = view_cache(slots.cache, spans, H, torch.float32)
    rows = torch.cat([group.output_rows for group in view.groups])
    assert rows.bincount().tolist() == [1] * 46 + [48 - 45]


def test_a_step_that_is_gathered_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = Slots([90] * 5).step([(i, 1) for i in range(5)])
    monkeypatch.setattr(attention, "MAX_GATHERED", 2 * 96)
    parts, _ = Slots([90] * 5).step([(i, 1) for i in range(5)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=ROUNDING)


def test_a_tokens_attention_is_the_same_in_any_company_but_for_rounding() -> None:
    lengths = [70, 5, 93, 70, 200]
    together, _ = Slots(lengths).step([(i, 1) for i in range(5)])
    for slot in range(5):
        slots = Slots(lengths)
        alone, _ = _step_with_the_numbers_of(slots, slot)
        torch.testing.assert_close(alone[:, 0], together[:, slot], rtol=0, atol=ROUNDING)


def _step_with_the_numbers_of(slots: Slots, slot: int) -> tuple[Tensor, Tensor]:
    """One slot's part of the step of five, alone: the same new keys, values and query as in company."""
    new, query = slots.random(5, LAYERS, 2, K, D), slots.random(LAYERS, 5, H, D)
    answers = iter((new[slot : slot + 1], query[:, slot : slot + 1]))
    slots.random = lambda *shape: next(answers)  # type: ignore[method-assign]
    return slots.step([(slot, 1)])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_a_cache_of_half_the_size_costs_only_its_rounding(dtype: torch.dtype, tolerance: float) -> None:
    ours, expected = Slots([40, 3], dtype=dtype).step([(0, 1), (1, 20)])
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


def test_padded_sizes_are_never_half_as_large_again() -> None:
    sizes = [attention._rounded(number) for number in range(1, 1000)]
    assert all(number <= size < 1.5 * number for number, size in enumerate(sizes, 1))
    assert sorted(set(sizes))[:9] == [1, 2, 3, 4, 6, 8, 12, 16, 24]
