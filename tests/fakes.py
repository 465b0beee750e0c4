"""A model whose answers can be computed by hand, and a tokenizer of bytes: the engine and the API without torch.

FakeRunner keeps a KV cache of real blocks and reads a request's tokens back from them through the block ids it was
told, so that a scheduler that mixes up blocks gives wrong answers. By default a request's next token is the sum of all
its tokens so far, modulo 256: prompt [1, 2] answers 3, 6, 12, 24, 48, … Where that token is not allowed, it is the
next one that is; biases and what else is there to make a choice are not looked at. The token at position p of a prompt
has the log-probability -p / 2, and the pooled state of a prompt is the mean of its token ids.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from app.engine.detokenizer import Vocabulary
from model.batch import NO_CHOICE, Batch, Chunk, ChunkResult, OpenedSlot, RunnerInfo, StepOutput, TargetLogprob

EOS = 256
BOS = 257
VOCAB_SIZE = 258


NextToken = Callable[[Sequence[int], int], int]  # (tokens of prompt and output, how many are prompt) → next token


def sum_of_all(token_ids: Sequence[int], num_prompt_tokens: int) -> int:
    return sum(token_ids) % 256


def bits(*token_ids: int) -> bytes:
    """As Chunk.allowed: these and no others."""
    return sum(1 << token_id for token_id in set(token_ids)).to_bytes(-(-VOCAB_SIZE // 8), "little")


def allows(allowed: bytes, token_id: int) -> bool:
    return token_id // 8 < len(allowed) and bool(allowed[token_id // 8] >> token_id % 8 & 1)


def next_allowed(allowed: bytes, wanted: int) -> int | None:
    """The first that is allowed from the wanted one on, and from 0 on behind the last."""
    in_turn = ((wanted + distance) % VOCAB_SIZE for distance in range(VOCAB_SIZE))
    return next((token_id for token_id in in_turn if allows(allowed, token_id)), None)


def says(text: str) -> NextToken:
    """Whatever it was asked, it says `text`, byte by byte, and ends."""
    script = [*text.encode(), EOS]
    return lambda token_ids, num_prompt_tokens: script[min(len(token_ids) - num_prompt_tokens, len(script) - 1)]


def fails_behind(num_tokens: int, may_fail: threading.Event) -> NextToken:
    """Says "a" so many times, waits until it may fail, and does."""

    def next_token(token_ids: Sequence[int], num_prompt_tokens: int) -> int:
        if len(token_ids) - num_prompt_tokens == num_tokens:
            may_fail.wait(20)
            raise ArithmeticError
        return ord("a")

    return next_token


@dataclass
class FakeSlot:
    opened: OpenedSlot
    block_ids: list[int] = field(default_factory=list)
    num_tokens: int = 0
    last_token_id: int | None = None


class FakeRunner:
    """Implements `model.batch.Runner` and asserts everything that its callers promise."""

    def __init__(
        self,
        next_token: NextToken = sum_of_all,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        max_model_len: int = 128,
        before_step: Callable[[Batch], None] = lambda _: None,
    ) -> None:
        self.info = RunnerInfo(
            backend="fake",
            device="cpu",
            dtype="int",
            kv_dtype="int",
            num_threads=1,
            vocab_size=VOCAB_SIZE,
            max_model_len=max_model_len,
            block_size=block_size,
            num_blocks=num_blocks,
            block_bytes=block_size * 8,
            hidden_size=1,
        )
        self.next_token = next_token
        self.before_step = before_step
        self.slots: dict[int, FakeSlot] = {}
        self.memory: list[list[int | None]] = [[None] * block_size for _ in range(num_blocks)]
        self.owners: dict[int, int] = {}  # block → slot
        self.batches: list[Batch] = []

    def run(self, batch: Batch) -> StepOutput:
        self.batches.append(batch)
        self.before_step(batch)
        for freed in batch.freed:
            self._free(freed.slot, freed.block_ids)
        for opened in batch.opened:
            assert opened.slot not in self.slots, "a slot number is freed before it is opened again"
            self.slots[opened.slot] = FakeSlot(opened)
        for grown in batch.grown:
            self._grow(grown.slot, grown.block_ids)
        assert len({chunk.slot for chunk in batch.chunks}) == len(batch.chunks), "one chunk a slot"
        return StepOutput(tuple(self._chunk(chunk) for chunk in batch.chunks))

    def _free(self, slot: int, block_ids: Sequence[int]) -> None:
        self.slots.pop(slot, None)
        for block in block_ids:
            self.owners.pop(block, None)
            self.memory[block] = [None] * self.info.block_size

    def _grow(self, slot: int, block_ids: Sequence[int]) -> None:
        for block in block_ids:
            assert block not in self.owners, "a block has one owner"
            assert self.memory[block] == [None] * self.info.block_size, "a new block is empty"
            self.owners[block] = slot
        self.slots[slot].block_ids.extend(block_ids)

    def _chunk(self, chunk: Chunk) -> ChunkResult:
        slot = self.slots[chunk.slot]
        start = slot.num_tokens
        for token_id in chunk.token_ids or (slot.last_token_id,):
            assert token_id is not None, "a decode chunk follows a sampled token"
            block, offset = divmod(slot.num_tokens, self.info.block_size)
            self.memory[slot.block_ids[block]][offset] = token_id
            slot.num_tokens += 1
        result = self._sampled(slot, chunk.allowed) if chunk.samples else ChunkResult()
        targets = self._targets(slot, chunk.targets, start + 1)
        return replace(result, targets=targets, pooled=self._pooled(slot, start))

    def _sampled(self, slot: FakeSlot, allowed: bytes | None) -> ChunkResult:
        wanted = self.next_token(self._read(slot), slot.opened.num_prompt_tokens)
        chosen = wanted if allowed is None else next_allowed(allowed, wanted)
        if chosen is None:
            return ChunkResult(error=NO_CHOICE)
        slot.last_token_id = chosen
        num_logprobs = slot.opened.sampling.num_logprobs
        if num_logprobs is None:
            return ChunkResult(chosen)
        return ChunkResult(chosen, -0.5, top_logprobs(chosen, -0.5, num_logprobs))

    def _targets(self, slot: FakeSlot, targets: Sequence[int], first_position: int) -> tuple[TargetLogprob, ...]:
        assert first_position + len(targets) <= slot.opened.num_prompt_tokens or not targets, "targets are the prompt's"
        num_top = slot.opened.sampling.num_prompt_logprobs
        logprobs = [-0.5 * (first_position + number) for number in range(len(targets))]
        return tuple(
            TargetLogprob(logprob, top_logprobs(target, logprob, num_top))
            for target, logprob in zip(targets, logprobs, strict=True)
        )

    def _pooled(self, slot: FakeSlot, start: int) -> tuple[float, ...] | None:
        num_prompt_tokens = slot.opened.num_prompt_tokens
        if not slot.opened.pools or not start < num_prompt_tokens <= slot.num_tokens:
            return None
        return (sum(self._read(slot)[:num_prompt_tokens]) / num_prompt_tokens,)

    def _read(self, slot: FakeSlot) -> list[int]:
        tokens = [token for block in slot.block_ids for token in self.memory[block]]
        read = [token for token in tokens[: slot.num_tokens] if token is not None]
        assert len(read) == slot.num_tokens, "a slot's blocks hold its tokens"
        return read


def top_logprobs(token_id: int, logprob: float, how_many: int) -> tuple[tuple[int, float], ...]:
    return tuple((token_id + rank, logprob - rank) for rank in range(how_many))


class ByteTokenizer:
    """One token a byte, and two special ones."""

    vocab_size = VOCAB_SIZE
    token_bytes = (*(bytes([value]) for value in range(256)), b"<eos>", b"<bos>")
    special_token_ids = frozenset({EOS, BOS})
    eos_token_ids = frozenset({EOS})
    bos_token_id = BOS
    special_tokens = MappingProxyType({"bos_token": "<bos>", "eos_token": "<eos>"})

    def name(self, token_id: int) -> str:
        return self.token_bytes[token_id].decode("latin-1")

    def marked(self, text: str, mark: str) -> str:
        return text

    def encode(self, text: str, add_special_tokens: bool = True, *, mark: str = "") -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        kept = [token for token in token_ids if not (skip_special_tokens and token in self.special_token_ids)]
        return b"".join(self.token_bytes[token] for token in kept).decode(errors="replace")


BYTES = Vocabulary(ByteTokenizer.token_bytes, ByteTokenizer.special_token_ids)
