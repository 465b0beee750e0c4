"""A closed loop of streamed completions with token ids as prompts, asked by the load-test client of `app/bench`. How a
server is started is no business of this module."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from app.bench.records import Ask, Record, RunSettings
from app.bench.run import run_load
from tests.peers.workload import Answer, Figures, Workload


class PeerError(Exception):
    """A server did not do what was asked of it."""


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int
    model: str  # as the server calls it


def measure(address: Address, workload: Workload) -> Figures:
    """Raises PeerError for an answer that is refused, broken off or shorter than asked."""
    settings = RunSettings(
        base_url=f"http://{address.host}:{address.port}",
        model=address.model,
        concurrency=workload.concurrency,
        num_prompts=workload.num_requests,
        temperature=workload.temperature,
        ignore_eos=True,
    )
    records: list[Record] = []
    cpu = time.process_time()
    asyncio.run(run_load(settings, _asks(workload), records.append))
    used = time.process_time() - cpu
    return Figures.of([_answer(record, workload.output_tokens) for record in records], used)


def _asks(workload: Workload) -> Iterator[Ask]:
    for number in range(workload.num_requests):
        prompt = tuple(workload.prompt(number))
        yield Ask(number, prompt, len(prompt), workload.output_tokens)


def _answer(record: Record, num_tokens: int) -> Answer:
    """Of tokens that nobody can print, only that they were there."""
    if record.failure is not None:
        raise PeerError(f"{record.failure}: {record.message}")
    if record.output_tokens != num_tokens:
        raise PeerError(f"asked for {num_tokens} tokens, got {record.output_tokens}")
    times = [record.ended] if record.first is None else accumulate((record.first, *record.gaps))
    return Answer(record.sent, tuple(times), record.prompt_tokens, record.output_tokens)
