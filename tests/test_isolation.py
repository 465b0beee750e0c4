"""Isolation, on a real transformer: eight requests together give, token for token, what each gives alone, with NaN in
every block and position that is nobody's, blocks reused, requests set back, and neighbours cancelled half-way.

The last test plants a fault, to show that these would see one.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import torch

from app.engine.detokenizer import Vocabulary
from app.engine.engine import Engine
from app.engine.limits import Limits
from app.engine.report import StepReport
from app.engine.request import FinishReason, RequestParams, Submission
from model.batch import NOT_ISOLATED, Batch, Chunk, SamplingParams, StepOutput
from model.config import ModelConfig
from model.torch_backend.runner import TorchOptions, TorchRunner
from tests.model.random_checkpoint import QWEN3, QWEN3_MOE, random_checkpoint

NOBODY = Vocabulary((b"",) * QWEN3.vocab_size, frozenset())  # these tests read token ids, not text
MAX_TOKENS = 80
SEEDED = SamplingParams(temperature=1.0, top_p=0.95, repetition_penalty=1.1, frequency_penalty=0.2)
POOL_BLOCKS = 12  # of 32 positions: too few for all, so that some wait and some are set back


@dataclass(frozen=True)
class Asked:
    prompt: tuple[int, ...]
    sampling: SamplingParams


def eight_requests() -> list[Asked]:
    """Greedy and seeded ones, from one token to more than two blocks and more than one prefill chunk."""
    generator = torch.Generator().manual_seed(7)
    asked = []
    for number, length in enumerate((1, 5, 31, 32, 33, 64, 70, 90)):
        prompt = tuple(torch.randint(0, QWEN3.vocab_size, (length,), generator=generator).tolist())
        sampling = replace(SEEDED, seed=number) if number % 2 else SamplingParams(temperature=0.0)
        asked.append(Asked(prompt, sampling))
    return asked


def make_runner(config: ModelConfig, device: str, runner: type[TorchRunner] = TorchRunner) -> TorchRunner:
    options = TorchOptions(device=device, dtype="float32", max_num_seqs=8, debug_poison=True)
    whole = runner(random_checkpoint(config, seed=1), options)
    limited = replace(options, kv_cache_memory=POOL_BLOCKS * whole.info.block_bytes)
    return runner(random_checkpoint(config, seed=1), limited)


@asynccontextmanager
async def running(runner: TorchRunner) -> AsyncIterator[Engine]:
    engine = Engine(runner, NOBODY, Limits(max_num_seqs=8, max_num_batched_tokens=48))
    engine.start()
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.stop)


class Overrun(TorchRunner):
    """In its 50th step something writes over the end of a block of the slot that was opened first."""

    num_steps = 0

    def run(self, batch: Batch) -> StepOutput:
        self.num_steps += 1
        if self.num_steps == 50:
            self._cache.stamps[self._slots[0].block_ids[0], 0] = 5
        return super().run(batch)


async def answer(engine: Engine, asked: Asked) -> list[int | None]:
    params = RequestParams(MAX_TOKENS, asked.sampling)
    stream = engine.submit([Submission("request", asked.prompt, params)])
    events = []
    while arrived := await asyncio.wait_for(stream.next(), 60):
        events += arrived
    assert events[-1].finish_reason is FinishReason.LENGTH, events[-1].error
    return [event.token_id for event in events]


async def leave_half_way(engine: Engine, prompt: Sequence[int], num_tokens: int) -> None:
    """A neighbour that asks for much and goes after `num_tokens`."""
    params = RequestParams(150, SamplingParams(temperature=1.0, seed=99))
    stream = engine.submit([Submission("neighbour", tuple(prompt), params)])
    num_seen = 0
    while num_seen < num_tokens:
        num_seen += len(await asyncio.wait_for(stream.next(), 60))
    stream.abort()
    while await stream.next():
        pass


async def answers_alone(runner: TorchRunner) -> list[list[int | None]]:
    async with running(runner) as engine:
        return [await answer(engine, asked) for asked in eight_requests()]


async def answers_together(runner: TorchRunner) -> list[list[int | None]]:
    async with running(runner) as engine:
        neighbours = [leave_half_way(engine, range(3, 3 + 20 * number), number) for number in range(1, 5)]
        first = [answer(engine, asked) for asked in eight_requests()]
        mixed = [task for pair in zip(first[:4], neighbours, strict=True) for task in pair]
        results = await asyncio.gather(*mixed, *first[4:])
        snapshot = await engine.slots()
        assert snapshot.blocks_used == 0
        assert engine._scheduler.num_preemptions > 0, "the pool was to be too small"
    return [result for result in results if result is not None]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return str(request.param)


@pytest.mark.parametrize("config", [QWEN3, QWEN3_MOE], ids=["dense", "routed"])
async def test_eight_together_give_what_each_gives_alone(config: ModelConfig, device: str) -> None:
    alone = await answers_alone(make_runner(config, device))
    together = await answers_together(make_runner(config, device))
    assert together == alone
    assert len({tuple(tokens) for tokens in alone}) == 8, "answers that differ are told apart"


async def test_a_second_round_on_the_same_blocks_gives_the_same_again(device: str) -> None:
    runner = make_runner(QWEN3, device)
    first = await answers_alone(runner)
    assert await answers_alone(runner) == first


class SharesOneBlock(TorchRunner):
    """A runner with a planted fault: the first block of every slot is the same."""

    def _forward(self, chunks: Sequence[Chunk], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        tables = [self._slots[chunk.slot].block_ids for chunk in chunks]
        first_blocks = [table[0] for table in tables]
        for table in tables:
            table[0] = 0
        try:
            return super()._forward(chunks, tokens)
        finally:
            for table, block in zip(tables, first_blocks, strict=True):
                table[0] = block


async def test_a_shared_block_is_seen(device: str) -> None:
    alone = await answers_alone(make_runner(QWEN3, device))
    runner = make_runner(QWEN3, device, SharesOneBlock)
    try:
        together = await answers_together(runner)
    except AssertionError as error:  # NaN reached an answer, and its request ended with an error
        assert "not finite" in str(error)  # noqa: PT017  # either way the fault has been seen
    else:
        assert together != alone


async def test_a_request_whose_block_was_written_to_ends_with_an_error_and_its_neighbour_as_ever(device: str) -> None:
    options = TorchOptions(device=device, dtype="float32", isolation_checks="canary", kv_cache_memory=2**22)
    asked = eight_requests()[4:6]
    alone = await answers_alone(make_runner(QWEN3, device))
    reports: list[StepReport] = []
    runner = Overrun(random_checkpoint(QWEN3, seed=1), options)
    engine = Engine(runner, NOBODY, Limits(8, 48), observe=reports.append)
    engine.start()
    struck = engine.submit([Submission("struck", asked[0].prompt, RequestParams(MAX_TOKENS, asked[0].sampling))])
    assert await answer(engine, asked[1]) == alone[5]
    events = []
    while arrived := await asyncio.wait_for(struck.next(), 60):
        events += arrived
    assert (events[-1].finish_reason, events[-1].error) == (FinishReason.ERROR, NOT_ISOLATED)
    assert [event.token_id for event in events[:-1]] == alone[4][: len(events) - 1]
    assert await answer(engine, asked[0]) == alone[4], "the slot and its blocks serve again"
    assert (await engine.slots()).blocks_used == 0
    await asyncio.to_thread(engine.stop)
    assert sum(report.num_not_isolated for report in reports) == 1
