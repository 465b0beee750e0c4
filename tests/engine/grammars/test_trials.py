"""The process in which grammars are tried out: when there is one, and what ends it."""

import gc
import json
import os

import psutil
import pytest

from app.engine.grammars.lark import NO_FORCING
from app.engine.grammars.trials import TOO_MUCH, GrammarTrials
from tests.fakes import BYTES

SOUND = f'start: "a"{NO_FORCING}'
ENDLESS = f"start: %json {json.dumps({'type': 'integer', 'multipleOf': 999_983})}{NO_FORCING}"


@pytest.fixture
def trials() -> GrammarTrials:
    return GrammarTrials(BYTES.token_bytes, BYTES.special_token_ids)


def processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "trial.py" in " ".join(child.cmdline())]


def only_process(others: list[psutil.Process]) -> psutil.Process:
    (one,) = set(processes()) - set(others)
    return one


def test_one_process_tries_all_grammars_and_starts_with_the_first(trials):
    others = processes()
    assert trials.problem_of(SOUND) == ""
    first = only_process(others)

    assert "unknown name" in trials.problem_of("start: b")
    assert trials.problem_of("start: \u00e9") != ""
    assert trials.problem_of(f'start: "\u00e9\\n" <bos>{NO_FORCING}') == ""
    assert only_process(others) == first


def test_a_grammar_that_takes_too_much_ends_the_process_and_the_next_starts_another(trials):
    others = processes()
    trials.problem_of(SOUND)
    first = only_process(others)

    assert trials.problem_of(ENDLESS) == TOO_MUCH
    assert not first.is_running()
    assert trials.problem_of(SOUND) == ""
    assert only_process(others) != first


def test_a_process_that_somebody_ended_is_replaced(trials):
    others = processes()
    trials.problem_of(SOUND)
    first = only_process(others)
    first.kill()
    psutil.wait_procs([first], timeout=10)

    assert {trials.problem_of(SOUND), trials.problem_of(SOUND)} <= {"", TOO_MUCH}
    assert trials.problem_of(SOUND) == ""
    assert only_process(others) != first


@pytest.mark.skipif(not hasattr(psutil.Process, "num_fds"), reason="file descriptors are POSIX's")
def test_of_a_process_that_ended_nothing_stays_open(trials):
    others = processes()
    trials.problem_of(SOUND)
    num_open = psutil.Process().num_fds()
    for _ in range(4):
        process = only_process(others)
        process.kill()
        psutil.wait_procs([process], timeout=10)
        trials.problem_of(SOUND)
        trials.problem_of(SOUND)

    assert psutil.Process().num_fds() == num_open


def test_the_process_ends_with_its_owner(trials):
    others = processes()
    owned = GrammarTrials(BYTES.token_bytes, BYTES.special_token_ids)
    owned.problem_of(SOUND)
    process = only_process(others)
    del owned
    gc.collect()

    assert not process.is_running()


@pytest.mark.skipif(not hasattr(os, "getsid"), reason="sessions are POSIX's")
def test_a_ctrl_c_in_the_terminal_is_not_for_it(trials):
    others = processes()
    trials.problem_of(SOUND)

    assert os.getsid(only_process(others).pid) != os.getsid(0)
