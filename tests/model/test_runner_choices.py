"""Every parameter of sampling and everything that a chunk may say of its choice, on every runner: the tokens are those
that the rule's text (model/torch_backend/sampling.py) gives, by the book, for the logits that the runner computed."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import pytest

from model.batch import Chunk, OpenedSlot, SamplingParams
from tests.model.native.library_here import needs_library
from tests.model.runners import ON_EVERY_RUNNER, Said, answer, logits_behind, make_runner, prompt_of, tokens_of
from tests.model.sampling_by_the_book import BookRow, packed, token_of
from tests.model.torch_backend.driver import Driver

PROMPT = prompt_of(30, 4)
NUM_TOKENS = 24
SAMPLED = SamplingParams(temperature=1.5, seed=5)
LOUD = tuple((token, 3.0) for token in range(0, 331, 9))

ALL: Mapping[str, Any] = {
    "temperature": 1.1,
    "top_k": 60,
    "top_p": 0.95,
    "min_p": 0.01,
    "typical_p": 0.95,
    "top_n_sigma": 2.5,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.08,
    "logit_bias": LOUD,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.3,
    "frequency_penalty": 0.2,
}
# name: what is asked for beside SAMPLED
CHANGES: dict[str, Mapping[str, Any]] = {
    "temperature": {"temperature": 0.6},
    "greedy": {"temperature": 0.0},
    "top_k": {"top_k": 6},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.08},
    "typical_p": {"typical_p": 0.5},
    "top_n_sigma": {"top_n_sigma": 1.2},
    "xtc_probability": {"xtc_probability": 0.6, "temperature": 0.7},
    "xtc_threshold": {"xtc_probability": 1.0, "xtc_threshold": 0.03, "temperature": 0.7},
    "logit_bias": {"logit_bias": LOUD},
    "repetition_penalty": {"repetition_penalty": 1.5},
    "presence_penalty": {"presence_penalty": 1.9, "logit_bias": LOUD},
    "frequency_penalty": {"frequency_penalty": 1.5, "logit_bias": LOUD},
    "seed": {"seed": 2**64 - 5},
    "min_tokens, suppressed_token_ids": {"min_tokens": 12, "suppressed_token_ids": tuple(range(0, 331, 2))},
    "all": ALL,
}
IN_EVERY_WAY = pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
REPORTED_ONLY = {"num_logprobs", "num_prompt_logprobs"}  # tested in test_runner_readings.py


def allowed_at(num_out: int) -> frozenset[int] | None:
    """Every third choice is free."""
    return None if num_out % 3 == 2 else frozenset(range(num_out % 5, 331 - 40 * (num_out % 2), 5))


def biases_at(num_out: int) -> tuple[tuple[int, float], ...]:
    return tuple((token, 2.5 - num_out % 4) for token in range(num_out, 331, 7)) if num_out % 2 else ()


# What the chunks say, as the book has it.
SAYINGS: dict[str, Said] = {
    "nothing": lambda _: {},
    "allowed": lambda n: {"allowed": allowed_at(n)},
    "biases": lambda n: {"biases": biases_at(n)},
    "both": lambda n: {"allowed": allowed_at(n), "biases": biases_at(n)},
}
SAY_NOTHING = SAYINGS["nothing"]


def for_chunks(said: Said) -> Said:
    return lambda n: {name: packed(x, 331) if name == "allowed" else x for name, x in said(n).items()}


def by_the_book(logits: list[list[float]], tokens: list[int], params: SamplingParams, said: Said) -> list[int | None]:
    """What would have been chosen at each place of that answer."""
    rows = [BookRow(row, params, len(PROMPT) + i, PROMPT, tuple(tokens[:i]), **said(i)) for i, row in enumerate(logits)]
    return [token_of(row) for row in rows]


def test_every_parameter_has_its_turn() -> None:
    turns = {name for changes in CHANGES.values() for name in changes}
    assert turns | REPORTED_ONLY == {field.name for field in fields(SamplingParams)}


@ON_EVERY_RUNNER
@IN_EVERY_WAY
def test_every_parameter_is_honoured(changes: Mapping[str, Any], backend: str) -> None:
    params, runner = replace(SAMPLED, **changes), make_runner(backend)
    tokens = tokens_of(answer(Driver(runner), PROMPT, params, NUM_TOKENS))
    logits = logits_behind(runner, PROMPT, tokens).tolist()
    assert tokens == by_the_book(logits, tokens, params, SAY_NOTHING)
    for name in changes if changes != ALL else ():
        without = replace(params, **{name: getattr(SAMPLED, name)})
        assert tokens != by_the_book(logits, tokens, without, SAY_NOTHING), f"{name} would not be missed"


@ON_EVERY_RUNNER
@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("saying", SAYINGS)
def test_what_a_chunk_says_of_its_choice_holds_for_that_one(saying: str, temperature: float, backend: str) -> None:
    said = SAYINGS[saying]
    params, runner = replace(SAMPLED, temperature=temperature), make_runner(backend)
    tokens = tokens_of(answer(Driver(runner), PROMPT, params, NUM_TOKENS, said=for_chunks(said)))
    logits = logits_behind(runner, PROMPT, tokens).tolist()
    assert tokens == by_the_book(logits, tokens, params, said)
    less = {key: other for key, other in SAYINGS.items() if other(0).keys() < said(0).keys()}
    for key, other in less.items():
        assert tokens != by_the_book(logits, tokens, params, other), f"more than {key} would not be missed"


@ON_EVERY_RUNNER
def test_bytes_that_are_missing_allow_nothing(backend: str) -> None:
    runner = make_runner(backend)
    results = answer(Driver(runner), PROMPT, SAMPLED, NUM_TOKENS, said=lambda _: {"allowed": b"\xff\x0e"})
    tokens = tokens_of(results)
    assert set(tokens) <= {*range(8), 9, 10, 11}
    logits = logits_behind(runner, PROMPT, tokens).tolist()
    allowed = frozenset([*range(8), 9, 10, 11])
    assert tokens == by_the_book(logits, tokens, SAMPLED, lambda _: {"allowed": allowed})


@needs_library
@IN_EVERY_WAY
def test_the_runners_give_the_same_tokens(changes: Mapping[str, Any]) -> None:
    params = replace(SAMPLED, **changes)
    ours, reference = (answer(Driver(make_runner(name)), PROMPT, params, NUM_TOKENS) for name in ("native", "torch"))
    assert tokens_of(ours) == tokens_of(reference)


@ON_EVERY_RUNNER
def test_requests_that_ask_for_different_things_do_not_disturb_each_other(backend: str) -> None:
    """All of them in one step, and each alone."""
    driver, prompt = Driver(make_runner(backend)), PROMPT[:10]
    asked = [replace(SAMPLED, **changes) for changes in CHANGES.values()]
    alone = [tokens_of(answer(driver, prompt, params, 6)) for params in asked]
    slots = range(len(asked))
    opened = [OpenedSlot(slot, 1, 10, params) for slot, params in enumerate(asked)]
    steps = [driver.step([Chunk(slot, prompt) for slot in slots], opened)]
    while len(steps) < 6:
        steps.append(driver.step([Chunk(slot) for slot in slots]))
    assert [tokens_of(results) for results in zip(*steps, strict=True)] == alone
