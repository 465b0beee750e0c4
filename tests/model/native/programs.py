"""The C++ programs of this folder: compiled with any compiler, run under any emulator."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from model.native import build

HERE = Path(__file__).parent
WARNINGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-pthread")


def compile_program(
    name: str, out: Path, linked: Sequence[Path], compiler: build.Compiler, flags: Sequence[str] = ("-O2",)
) -> Path:
    """`name`_program.cpp, with a library or with sources; a library must stay where it is."""
    paths = (f"-Wl,-rpath,{one.parent}" for one in linked if one.suffix == ".so")
    compiler.run(*WARNINGS, *flags, "-I", build.SOURCES, HERE / f"{name}_program.cpp", *linked, *paths, "-o", out)
    return out


def run_program(command: Sequence[str | Path], folder: Path) -> list[str]:
    """The lines that it prints; its status must be 0. A crash may leave a file in the folder."""
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{words}: {result.returncode}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout.splitlines()
