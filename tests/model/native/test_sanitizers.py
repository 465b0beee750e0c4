"""The library and the programs of this folder, compiled with sanitizers: minutes, and so only on request,

    pytest -m sanitizers tests/model/native/test_sanitizers.py

The tests in Python take such a library, too; `model/native/README.md` has the command.
"""

import shutil
from pathlib import Path

import pytest

from model.native import build
from tests.model.native.programs import compile_program, run_program

pytestmark = [
    pytest.mark.sanitizers,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not any(map(shutil.which, build.COMPILERS)), reason="there is no C++ compiler"),
]
CLEAN = "0 of "


def flags_of(sanitizers: str) -> tuple[str, ...]:
    flags = (*build.SANITIZER_FLAGS, f"-fsanitize={sanitizers}")
    if not build.compiles(build.find_compiler().command, flags, "int main() {}\n"):
        pytest.skip(f"{build.find_compiler().command[0]} has no sanitizer of {sanitizers}")
    return flags


@pytest.fixture(scope="module", params=["address,undefined", "thread"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """A library, and the flags that it was compiled with."""
    flags = flags_of(request.param)
    library = tmp_path_factory.mktemp("sanitized") / "libslotwise.so"
    assert build.main(["--sanitize", request.param, "--out", str(library)]) == 0
    return library, flags


@pytest.mark.parametrize("name", ["kernels", "step"])
def test_nothing_is_found_in_kernels_and_steps(built: tuple[Path, tuple[str, ...]], name: str, tmp_path: Path) -> None:
    library, flags = built
    if name == "kernels" and "-fsanitize=thread" in flags:
        pytest.skip("kernels have no threads")
    program = compile_program(name, tmp_path / name, [library], build.find_compiler(), flags)
    lines = run_program([program], tmp_path)
    assert len(lines) > 1
    assert all(f" {CLEAN}" in line for line in lines[1:])


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_nothing_is_found_in_the_team(sanitizers: str, tmp_path: Path) -> None:
    team = [build.SOURCES / "team.cpp"]
    program = compile_program("team", tmp_path / "team", team, build.find_compiler(), flags_of(sanitizers))
    assert run_program([program], tmp_path)[-1].startswith(CLEAN)
