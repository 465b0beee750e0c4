"""The progress of a load: a live line on a terminal, plain lines elsewhere, and neither more often than it may."""

import io

from rich.console import Console

from app.bench.progress import ProgressLine, words_of
from app.bench.records import Progress


def at(elapsed, **more):
    given = {
        "sent": 60,
        "completed": 50,
        "failed": 0,
        "in_flight": 10,
        "held": 0,
        "output_pieces": 5000,
        "pieces_per_s": 1234.0,
    }
    return Progress(elapsed=elapsed, share_done=0.5, **(given | more))


def drawn(progresses, *, is_terminal):
    file = io.StringIO()
    with ProgressLine(Console(file=file, force_terminal=is_terminal, width=120), "16 at once") as line:
        for progress in progresses:
            line.update(progress)
    return file.getvalue()


def test_what_is_told_of_a_run_in_progress():
    assert words_of(at(12.3)) == "50 %, 12 s: 50 done, 10 in flight, 1,234 tok/s"


def test_failures_are_told_and_an_end_that_is_not_known_is_not():
    progress = Progress(
        elapsed=3.0,
        sent=9,
        completed=5,
        failed=1,
        in_flight=3,
        held=0,
        output_pieces=0,
        pieces_per_s=0.0,
        share_done=None,
    )
    assert words_of(progress) == "3 s: 5 done, 3 in flight, 1 failed, 0 tok/s"


def test_a_pipe_gets_whole_lines_now_and_then():
    text = drawn([at(seconds / 4) for seconds in range(100)], is_terminal=False)

    assert text.splitlines() == [
        "16 at once: 50 %, 0 s: 50 done, 10 in flight, 1,234 tok/s",
        "16 at once: 50 %, 10 s: 50 done, 10 in flight, 1,234 tok/s",
        "16 at once: 50 %, 20 s: 50 done, 10 in flight, 1,234 tok/s",
    ]


def test_a_terminal_gets_one_line_that_is_drawn_over_and_cleared_at_the_end():
    text = drawn([at(0.0), at(0.3, completed=51), at(0.6, completed=52)], is_terminal=True)

    assert [f"{done} done" in text for done in (50, 51, 52)] == [True, True, True]
    assert text.count("\n") <= 1
    assert "\x1b[2K" in text.rpartition("52 done")[2], "the line must be gone before the results are printed"


def test_a_terminal_is_not_drawn_on_more_often_than_an_eye_needs():
    text = drawn([at(number / 100, completed=number) for number in range(100)], is_terminal=True)

    assert sum(f" {number} done" in text for number in range(100)) <= 5


def test_the_cursor_comes_back_when_a_run_is_broken_off():
    file = io.StringIO()
    try:
        with ProgressLine(Console(file=file, force_terminal=True, width=120), "load") as line:
            line.update(at(0.0))
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass

    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")
