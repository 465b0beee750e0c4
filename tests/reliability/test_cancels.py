"""Clients that go away in every phase: nothing is left, and each request has one end. How soon is for the command to
measure (`python -m tests.reliability.cancels`); here its figures are computed from notes made by hand."""

import asyncio
import time
from random import Random

import pytest

from app.engine.engine import Engine
from app.engine.scheduler import Scheduler
from tests.api.api_parts import build
from tests.fakes import FakeRunner
from tests.live_server import serve
from tests.reliability.cancels import (
    NUM_CLIENTS,
    NUM_SLOTS,
    Cancel,
    Client,
    leave_again_and_again,
    outcome_of,
    slots_left,
    step_at,
    verdict,
)
from tests.reliability.noted_ends import End, Note, Step, noting_ends, noting_steps


def test_after_a_hundred_cancels_no_slot_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[Note] = []
    monkeypatch.setattr(Scheduler, "_finish", noting_ends(Scheduler._finish, notes.append))
    monkeypatch.setattr(Engine, "_run", noting_steps(Engine._run, notes.append))
    runner = FakeRunner(
        lambda tokens, num_prompt: 97,
        max_model_len=10_000,
        num_blocks=2_000,
        block_size=32,
        before_step=lambda _: time.sleep(0.001),
    )
    with serve(build(runner, max_num_seqs=NUM_SLOTS, max_num_batched_tokens=16)) as server:
        client = Client(server.host, server.port, Random(1), 1000, 8000, longest_wait=0.1)
        cancels = asyncio.run(leave_again_and_again(client, 100, NUM_CLIENTS))
        assert slots_left(server.url) == 0
    outcome = outcome_of(cancels, notes)
    assert outcome.wrong == []
    assert outcome.phases.total() == 100
    assert {"queue", "prefill", "decode", "ended"} <= {phase for phase, _ in outcome.phases}
    assert runner.owners == {}


ONE_STEP = Step(10.0, 10.5)


def test_a_step_is_the_one_that_was_running_or_began_next() -> None:
    steps = [Step(9.0, 9.1), ONE_STEP]
    assert [step_at(moment, steps) for moment in (9.05, 9.1, 10.2, 10.5)] == pytest.approx([0.1, 0.5, 0.5, 0.0])


def notes_of(seconds: float, reason: str = "abort") -> tuple[list[Cancel], list[Note]]:
    """One request in each phase, streamed and not, that left in the middle of a step and was free so much later."""
    cancels: list[Cancel] = []
    notes: list[Note] = [ONE_STEP]
    for number, phase in enumerate(("queue", "prefill", "decode", "ended") * 2):
        cancels.append(Cancel(str(number), number > 3, 10.2))
        notes.append(End(str(number), phase, reason, 10.1 if phase == "ended" else 10.2 + seconds))
    return cancels, notes


def test_what_is_well() -> None:
    cancels, notes = notes_of(0.55)
    words, is_well = verdict(outcome_of(cancels, notes), 0, 0.5)
    assert is_well, words
    assert "cancelled: 8" in words
    assert "p99 550.0" in words


@pytest.mark.parametrize(
    ("seconds", "reason", "num_left", "kept"),
    [
        (0.61, "abort", 0, slice(None)),  # later than the step and 100 ms
        (0.3, "error", 0, slice(None)),
        (0.3, "abort", 1, slice(None)),
        (0.3, "abort", 0, slice(1, None)),  # nobody left the queue without a stream
    ],
)
def test_what_is_not(seconds: float, reason: str, num_left: int, kept: slice) -> None:
    cancels, notes = notes_of(seconds, reason)
    assert not verdict(outcome_of(cancels[kept], notes), num_left, 0.5)[1]


def test_two_ends_of_one_request_are_seen() -> None:
    cancels, notes = notes_of(0.1)
    assert len(outcome_of(cancels, [*notes, notes[1]]).wrong) == 1
