"""A process that is killed under a supervisor, with a fake model; the command has the real one."""

import sys

from app.bench.loop import in_loop
from tests.reliability.kill import NUM_STREAMS, kill_and_watch, supervised
from tests.reliability.server_process import free_port

FAKE = (sys.executable, "-m", "tests.serve_fake", "crawls", "serve")


def test_after_a_kill_no_client_hangs_and_the_next_process_answers_alike():
    port = free_port()
    with supervised(FAKE, port) as supervisor:
        outcome = in_loop(kill_and_watch(supervisor, port, 1000))

    assert outcome.num_ended == NUM_STREAMS
    assert outcome.num_starts == 2
    assert outcome.is_equal
