"""The library on processors that are not here, emulated by qemu-user: that it chooses what each can run and never
executes anything else, and that its kernels are right there.

On Debian: apt-get install qemu-user g++-aarch64-linux-gnu. Emulated x86-64 has AVX2, and not AVX-512.
"""

import platform
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model.native import build
from model.native.library import LIBRARY
from tests.model.native.library_here import needs_library
from tests.model.native.programs import compile_program, run_program

CROSS = "aarch64-linux-gnu-g++"
ROOT = Path(__file__).parents[3]
LIBRARIES_OF_AARCH64 = Path("/usr/aarch64-linux-gnu")  # where Debian has them
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, build.COMPILERS)), reason="there is no C++ compiler")


def needs(*programs: str) -> list[pytest.MarkDecorator]:
    missing = [program for program in programs if not shutil.which(program)]
    return [pytest.mark.qemu, pytest.mark.skipif(bool(missing), reason=f"there is no {' and no '.join(missing)}")]


def parameters(table: dict[str, str], *programs: str) -> list[object]:
    return [pytest.param(cpu, sets, marks=needs(*programs), id=cpu) for cpu, sets in table.items()]


# Processors, and the sets that are to be found on them, best first.
X86_64 = {"Haswell": "avx2 scalar", "Nehalem": "scalar"}
X86_64_LESS = {
    "SandyBridge": "scalar",  # has AVX alone
    "Haswell,-fma": "scalar",
    "Haswell,-f16c": "scalar",
    "Haswell,-bmi2": "scalar",
}
AARCH64 = {"max": "neoni8mm neondot scalar", "neoverse-n1": "neondot scalar", "cortex-a72": "scalar"}
ON_X86_64 = parameters(X86_64, "qemu-x86_64")
ON_AARCH64 = parameters(AARCH64, "qemu-aarch64", CROSS)


def on(cpu: str, *command: str | Path) -> list[str | Path]:
    """The command, on that processor."""
    if cpu in AARCH64:
        return ["qemu-aarch64", "-L", LIBRARIES_OF_AARCH64, "-cpu", cpu, *command]
    return ["qemu-x86_64", "-cpu", cpu, *command]


is_x86_64 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="this is another architecture")


@pytest.fixture(scope="module")
def cross_built(tmp_path_factory: pytest.TempPathFactory) -> tuple[build.Compiler, Path]:
    """A library for aarch64."""
    library = tmp_path_factory.mktemp("aarch64") / "libslotwise.so"
    assert build.main(["--strict", "--compiler", CROSS, "--out", str(library)]) == 0
    return build.find_compiler(CROSS), library


def check_lines(lines: list[str], sets: str) -> None:
    """Of kernels_program.cpp and step_program.cpp."""
    assert lines[0] == f"instruction sets: {sets}"
    assert [line.partition(":")[0] for line in lines[1:]] == sets.split()
    assert all(re.search(r"\b0 of [1-9]\d* checks failed", line) for line in lines[1:])


@needs_library
@needs_compiler
@is_x86_64
@pytest.mark.parametrize(("cpu", "sets"), ON_X86_64)
def test_steps_on_x86_64(cpu: str, sets: str, tmp_path: Path) -> None:
    program = compile_program("step", tmp_path / "step", [LIBRARY], build.find_compiler())
    check_lines(run_program(on(cpu, program), tmp_path), sets)


@pytest.mark.parametrize("name", ["step", "kernels"])
@pytest.mark.parametrize(("cpu", "sets"), ON_AARCH64)
def test_steps_and_kernels_on_aarch64(
    cpu: str, sets: str, name: str, tmp_path: Path, cross_built: tuple[build.Compiler, Path]
) -> None:
    compiler, library = cross_built
    program = compile_program(name, tmp_path / name, [library], compiler)
    check_lines(run_program(on(cpu, program), tmp_path), sets)


ENGINE_STEPS = (sys.executable, "-m", "tests.model.native.engine_steps")


@pytest.fixture(scope="module")
def tokens_here() -> list[str]:
    """By the specification."""
    return run_program([*ENGINE_STEPS, "scalar"], ROOT)[1:]


@needs_library
@is_x86_64
@pytest.mark.parametrize(("cpu", "sets"), ON_X86_64)
def test_the_runner_in_python_chooses_the_same_tokens(cpu: str, sets: str, tokens_here: list[str]) -> None:
    """All of numpy goes through the emulator, too."""
    lines = run_program(on(cpu, *ENGINE_STEPS), ROOT)
    assert lines[0] == sets
    assert lines[1:] == tokens_here


@needs_library
@is_x86_64
@pytest.mark.parametrize(("cpu", "sets"), parameters(X86_64_LESS, "qemu-x86_64"))
def test_a_set_is_chosen_only_where_all_of_it_is_there(cpu: str, sets: str) -> None:
    program = "from model.native.library import NativeLibrary as library; print(*library.open().instruction_sets())"
    assert run_program(on(cpu, sys.executable, "-c", program), ROOT) == [sets]


REFUSALS = {
    "Nehalem": "vpaddd %ymm0, %ymm0, %ymm0",
    "Haswell": "vpaddd %zmm0, %zmm0, %zmm0",
    "cortex-a72": ".arch armv8.2-a+dotprod\\nsdot v0.4s, v0.16b, v0.16b",
    "neoverse-n1": ".arch armv8.2-a+i8mm\\nusdot v0.4s, v0.16b, v0.16b",
}


@pytest.mark.parametrize(("cpu", "sets"), [*ON_X86_64, *ON_AARCH64[1:]])
def test_the_emulator_refuses_what_the_processor_lacks(cpu: str, sets: str, tmp_path: Path) -> None:
    """Or the tests above would prove nothing."""
    (tmp_path / "probe.cpp").write_text(f'int main() {{ asm volatile("{REFUSALS[cpu]}"); }}\n')
    compiler = build.find_compiler(CROSS if cpu in AARCH64 else None)
    compiler.run(tmp_path / "probe.cpp", "-o", tmp_path / "probe")
    command = list(map(str, on(cpu, tmp_path / "probe")))
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == -signal.SIGILL


def shared_names(compiler: build.Compiler, made: Path) -> list[str]:
    """Of functions and data of an object file that others may refer to, or be given instead of their own."""
    nm = subprocess.run([*compiler.command, "-print-prog-name=nm"], capture_output=True, text=True, check=True)
    command = [nm.stdout.strip(), "--defined-only", "--extern-only", "--format=posix", str(made)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in listing.splitlines()]


def check_namespaces(compiler: build.Compiler, folder: Path) -> None:
    sets = build.choose_sets(compiler)
    assert sets
    for unit in build.units_of(build.SOURCES, sets)[: len(sets)]:
        made = folder / f"{unit.name}.o"
        compiler.run(*build.FLAGS, *unit.flags, "-O0", "-c", unit.source, "-o", made)  # -O0: nothing is inlined
        isa = unit.name.removeprefix("simd_")
        namespace = re.compile(rf"_ZNK?8slotwise{len(isa)}{isa}")
        others = [name for name in shared_names(compiler, made) if not namespace.match(name)]
        assert [name for name in others if "__gxx_personality" not in name] == []


@needs_compiler
def test_what_is_compiled_for_a_set_is_taken_for_no_other(tmp_path: Path) -> None:
    """A function that is inline elsewhere, too, would be: the linker keeps one of all, made of any instructions."""
    check_namespaces(build.find_compiler(), tmp_path)


@pytest.mark.parametrize("compiler", [pytest.param(CROSS, marks=needs(CROSS))])
def test_nor_is_it_on_aarch64(compiler: str, tmp_path: Path) -> None:
    check_namespaces(build.find_compiler(compiler), tmp_path)
