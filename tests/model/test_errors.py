"""What a ModelError shows of a file that was written to harm the one who reads the message."""

from pathlib import Path

from model.errors import ModelError


def test_what_a_terminal_would_obey_is_escaped() -> None:
    error = ModelError(Path("a\x1bb"), "tensor '\x1b]0;title\x07\x9b1m\ud800\u202e\n' is left over; 你好 🦙 is not")
    assert str(error) == r"a\x1bb: tensor '\x1b]0;title\x07\x9b1m\ud800\u202e\n' is left over; 你好 🦙 is not"
    assert error.path == Path("a\x1bb")


def test_a_long_problem_keeps_what_is_wrong_and_what_would_be_right() -> None:
    error = ModelError(Path("config.json"), f"sliding_window is {[1] * 100_000}; only None can be served.")
    assert len(error.problem) == 1000
    assert str(error).startswith("config.json: sliding_window is [1, 1, ")
    assert str(error).endswith(", 1]; only None can be served.")
    assert " … " in error.problem


def test_a_problem_of_ordinary_length_is_said_whole() -> None:
    assert ModelError("model.gguf", "x" * 1000).problem == "x" * 1000


def test_a_path_that_a_file_made_up_is_cut_too() -> None:
    assert str(ModelError("a" * 5000, "gone.")) == f"{'a' * 700} … {'a' * 297}: gone."


def test_what_is_longer_when_it_is_escaped_is_cut_once_more() -> None:
    assert ModelError("m.pth", f"endianness {chr(0) * 1000}.").problem.startswith(r"endianness \x00\x00")
    assert len(ModelError("m.pth", "\0" * 10**6).problem) == 1000
