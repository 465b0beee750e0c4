"""From options to what is sent: asks the server for its model, its tokenizer and the length of a first prompt, so
that a server that is not there, or will not answer, is found before the load begins.
"""

import random
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from app.bench.client import Client, Clock
from app.bench.connection import Lost
from app.bench.datasets import check_endpoint, read_jsonl, read_sharegpt
from app.bench.errors import BadWorkload, Unusable
from app.bench.options import read_loads
from app.bench.prompts import AskSource, ConversationLengths, FileWorkload, FixedLengths, RandomWorkload, Workload
from app.bench.random_prompts import IdBuilder, Prompt, RandomPrompts, WordBuilder
from app.bench.records import Ask, RunSettings
from app.bench.run import check
from app.bench.tokenizer import find_tokenizer

Lengths: TypeAlias = FixedLengths | ConversationLengths

DEFAULT_INPUT_LEN = 1024
DEFAULT_OUTPUT_LEN = 128
MAX_PROBE_TOKENS = 1


@dataclass(frozen=True, slots=True)
class Plan:
    loads: Sequence[RunSettings]
    source: AskSource


async def make_plan(options: Namespace) -> Plan:
    """Raises BadWorkload for options that do not go together, Unusable for a server that does not do its part."""
    loads = read_loads(options, options.model or "")
    for load in loads:
        check(load)
    dataset = _dataset_name(options)
    file_workload = _file_workload(options, loads[0], dataset) if options.dataset_path is not None else None
    async with Client(loads[0]) as client:
        try:
            model = options.model or await _first_model(client)
        except Lost as lost:
            raise Unusable(str(lost)) from lost
    loads = [replace(load, model=model) for load in loads]
    lengths = _lengths(options, dataset)
    if file_workload is None and isinstance(lengths, FixedLengths):
        loads = [replace(load, input_len=lengths.input_len, output_len=lengths.output_len) for load in loads]
    workload = file_workload or await _random_workload(options, loads[0], lengths)
    is_seeded = options.temperature is not None and options.temperature > 0
    return Plan(loads, AskSource(workload, options.seed, is_seeded, options.cancel_fraction))


def _dataset_name(options: Namespace) -> str:
    name = str(options.dataset_name or ("random" if options.dataset_path is None else "custom"))
    if (name in ("custom", "sharegpt")) != (options.dataset_path is not None):
        raise BadWorkload("--dataset-path belongs to --dataset-name custom or sharegpt, which need it")
    return name


def _file_workload(options: Namespace, load: RunSettings, dataset: str) -> FileWorkload:
    rows = read_jsonl(options.dataset_path) if dataset == "custom" else read_sharegpt(options.dataset_path)
    check_endpoint(rows, load.endpoint == "chat")
    return FileWorkload(rows, options.output_len)


async def _first_model(client: Client) -> str:
    """Raises Unusable, or Lost."""
    page = await client.fetch("/v1/models")
    answer = page.json()
    models = answer.get("data") if isinstance(answer, dict) else None
    if not (isinstance(models, list) and models and isinstance(models[0], dict) and "id" in models[0]):
        raise Unusable(f"the server names no model (/v1/models, status {page.status}): name one with --model")
    return str(models[0]["id"])


async def _random_workload(options: Namespace, load: RunSettings, lengths: Lengths) -> Workload:
    if options.token_ids and load.endpoint == "chat":
        raise BadWorkload("--token-ids is for --endpoint completions: a chat has no token ids")
    typical, _ = lengths.draw(random.Random(options.seed))
    async with Client(load) as client:
        try:
            tokenizer = await find_tokenizer(client)
            builder = await (IdBuilder if options.token_ids else WordBuilder).measured(tokenizer)
        except Lost as lost:
            raise Unusable(str(lost)) from lost
        prompts = await RandomPrompts.calibrated(
            builder, lambda prompt: _count(client, prompt), typical, options.seed, options.random_prefix_len
        )
    if isinstance(lengths, FixedLengths) and lengths.input_len + prompts.prefix_len < prompts.shortest:
        raise BadWorkload(
            f"a prompt has {prompts.shortest} tokens at least, with what the server adds to it: ask for more"
        )
    return RandomWorkload(prompts, lengths)


def _lengths(options: Namespace, dataset: str) -> Lengths:
    if dataset == "conversation":
        return ConversationLengths()
    return FixedLengths(
        options.input_len or DEFAULT_INPUT_LEN, options.output_len or DEFAULT_OUTPUT_LEN, options.random_range_ratio
    )


async def _count(client: Client, prompt: Prompt) -> int:
    """How many tokens the server counts in a prompt. Raises Unusable where it does not answer it."""
    clock = Clock.start()
    record = await client.ask(Ask(0, prompt, None, MAX_PROBE_TOKENS), clock, clock.now())
    if record.failure is not None:
        raise Unusable(f"the first request failed ({record.failure}): {record.message}")
    return record.prompt_tokens
