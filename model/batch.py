"""The contract between the engine and a model: what one step asks for, and what it gives back.

Plain frozen values, and the `Runner` protocol that turns one into the other. Nothing here knows of text, HTTP or
tensors. A batch says only what changed, so that a steady decode step costs nothing to describe.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token of a slot is chosen; `model/torch_backend/sampling.py` gives the exact rule."""

    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0  # locally typical sampling (arXiv 2202.00666)
    top_n_sigma: float = 0.0  # 0: off; else logits this many standard deviations below the largest (arXiv 2411.07641)
    xtc_probability: float = 0.0  # that the most likely tokens are left out, all but the last of those …
    xtc_threshold: float = 0.1  # … that have at least this share
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its logit), each id once
    repetition_penalty: float = 1.0  # over prompt and output, as in CTRL (arXiv 1909.05858)
    presence_penalty: float = 0.0  # over the output only, as OpenAI defines it
    frequency_penalty: float = 0.0
    seed: int = 0  # 64 bits, unsigned; with the position it is the whole key of the random number
    num_logprobs: int | None = None  # None: not wanted; 0: the chosen token's own; n: also the n most likely
    min_tokens: int = 0  # until the output has this many tokens …
    suppressed_token_ids: tuple[int, ...] = ()  # … these are never chosen
    num_prompt_logprobs: int = 0  # of chunks with targets: so many most likely tokens beside each target


@dataclass(frozen=True, slots=True)
class OpenedSlot:
    """A slot begins: empty, without memory. Tokens from `num_prompt_tokens` on are output, also when they are fed in
    again after a preemption: they count for the penalties, and a backend may compute them in another way."""

    slot: int
    generation: int
    num_prompt_tokens: int
    sampling: SamplingParams
    pools: bool = False  # the mean of the prompt's final hidden states is wanted, behind its last chunk
    adapter: int = 0  # which of the adapters that the runner was made with, from 1 on; 0: none


@dataclass(frozen=True, slots=True)
class GrownSlot:
    """Blocks that a slot owns from now on, behind those it has."""

    slot: int
    block_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FreedSlot:
    """A slot ends: the contents of its blocks are destroyed before anything else happens in the step. To free a slot
    that the runner never saw is no error (its step may have failed)."""

    slot: int
    block_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of one slot in this step, at the positions behind those it has."""

    slot: int
    token_ids: tuple[int, ...] = ()  # empty: a decode chunk, which feeds the token the runner sampled last
    samples: bool = True  # False: no token is wanted: more of the prompt is to come, or none ever is
    allowed: bytes | None = None  # what may be chosen: a bit for each token id, the lowest of a byte first; None: all
    biases: tuple[tuple[int, float], ...] = ()  # as SamplingParams.logit_bias, and added to it, for this one choice
    targets: tuple[int, ...] = ()  # targets[i]: a token whose log-probability behind the chunk's token i is wanted

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) or 1


@dataclass(frozen=True, slots=True)
class Batch:
    """One step. A slot that is opened or grown has a chunk in the same batch; a slot has at most one chunk."""

    freed: tuple[FreedSlot, ...] = ()
    opened: tuple[OpenedSlot, ...] = ()
    grown: tuple[GrownSlot, ...] = ()
    chunks: tuple[Chunk, ...] = ()


# Why a chunk gave no token.
NOT_FINITE = "the model's logits are not finite"
NO_CHOICE = "no token is left to choose: none is allowed"
NOT_ISOLATED = "isolation check failed: a block of the request's KV cache is not as the request left it"


@dataclass(frozen=True, slots=True)
class TargetLogprob:
    """Of one of a chunk's targets, as ChunkResult has them of the token chosen."""

    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What one chunk gave: a token where it samples, or the reason why it could not."""

    token_id: int | None = None
    logprob: float | None = None  # natural logarithm, of the model's own distribution (before penalties, temperature)
    top_logprobs: tuple[tuple[int, float], ...] = ()  # (token id, logprob), most likely first
    error: str | None = None
    targets: tuple[TargetLogprob, ...] = ()  # one for each of the chunk's
    pooled: tuple[float, ...] | None = None  # [E], of a slot that pools, behind the last token of its prompt


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One result for each chunk of the batch, in its order."""

    results: tuple[ChunkResult, ...] = ()


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """What a runner is and what it has to give away."""

    backend: str  # "native", "torch"
    device: str  # "cpu", "cuda:0"
    dtype: str  # of the weights in the products: "float32", "q4_1", …
    kv_dtype: str
    num_threads: int
    vocab_size: int
    max_model_len: int  # tokens, prompt and output together
    block_size: int  # token positions in a block
    num_blocks: int  # the limit of the KV cache
    block_bytes: int  # of one block, in all layers
    hidden_size: int = 0
    instruction_set: str = ""  # of the processor, in the products; empty where the backend does not know

    @property
    def kv_bytes_per_token(self) -> int:
        return self.block_bytes // self.block_size


class Runner(Protocol):
    """A model that can run steps. It holds only slot state that can be rebuilt from the batches it was given."""

    @property
    def info(self) -> RunnerInfo: ...

    def run(self, batch: Batch) -> StepOutput:
        """Frees, opens, grows, then computes all chunks at once. May raise: the step's requests then fail, and the
        next batch frees their slots."""
        ...


def num_blocks_for(num_tokens: int, block_size: int) -> int:
    """Blocks that hold `num_tokens` positions."""
    return -(-num_tokens // block_size)
