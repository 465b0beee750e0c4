"""The threads of a runner, by a C++ program that gives them many tasks."""

import shutil
from pathlib import Path

import pytest

from model.native import build
from tests.model.native.programs import compile_program, run_program

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, build.COMPILERS)), reason="there is no C++ compiler")


@needs_compiler
def test_every_item_is_done_once(tmp_path: Path) -> None:
    team = [build.SOURCES / "team.cpp"]
    program = compile_program("team", tmp_path / "team", team, build.find_compiler())
    assert run_program([program], tmp_path)[-1].startswith("0 of ")
