"""Which files are read whole, and which would never end."""

import os
from pathlib import Path

import pytest

from model.errors import ModelError
from model.formats.ordinary_file import _MOST_BYTES, check_ordinary, read_whole


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("a")
    assert read_whole(tmp_path / "b") == b"abc"
    assert check_ordinary(tmp_path / "a") == 3


def test_a_file_that_is_not_there_is_for_the_caller_to_explain(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_whole(tmp_path / "a")


@pytest.mark.parametrize("excess", [0, 1])
def test_a_file_may_have_so_many_bytes_and_not_one_more(excess: int, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    os.truncate(tmp_path / "a", _MOST_BYTES + excess)
    if not excess:
        assert len(read_whole(tmp_path / "a")) == _MOST_BYTES
    else:
        with pytest.raises(ModelError, match=r"a: cannot be read: it has 134,217,729 bytes, and at most 134,217,728"):
            read_whole(tmp_path / "a")


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "pipe"), (tmp_path, "folder"), (Path("/dev/zero"), "device")):
        with pytest.raises(ModelError, match=f"is no ordinary file but a {kind}"):
            read_whole(path)
