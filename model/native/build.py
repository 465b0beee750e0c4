"""Compiles the C++ sources of `src/` into the one shared library that `library.py` loads.

`python model/native/build.py` builds it in place, which is what an editable install needs; `build_hook.py` calls the
same for `pip install`. simd.cpp is compiled once for each instruction set, everything else once for the plainest
processor of its kind, so that the library loads anywhere and chooses the best set at run time. A set whose flags the
compiler does not know is left out. Standard library only: nothing of this project is importable while it is installed.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = FOLDER / "src"
SIMD_SOURCE = "simd.cpp"
LIBRARY = FOLDER / ("libslotwise.dylib" if sys.platform == "darwin" else "libslotwise.so")

COMPILERS = ("g++", "clang++", "c++")
# No product and sum becomes one operation but where the source says so: rows would depend on how loops were unrolled.
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
)
SANITIZER_FLAGS = ("-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")
NO_COMPILER, FAILED = 3, 1


@dataclass(frozen=True, slots=True)
class InstructionSet:
    name: str  # of the namespace that simd.cpp is compiled into
    flags: tuple[str, ...]


AVX2 = ("-mavx2", "-mfma", "-mf16c", "-mbmi2")
AVX512VNNI = (*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vnni")))
AVX512 = (*AVX512VNNI, "-mavx512bf16")
INSTRUCTION_SETS = {
    "x86_64": (
        InstructionSet("amx", (*AVX512, "-mamx-tile", "-mamx-int8", "-mamx-bf16")),
        InstructionSet("avx512", AVX512),
        InstructionSet("avx512vnni", AVX512VNNI),
        InstructionSet("avx2vnni", (*AVX2, "-mavxvnni")),
        InstructionSet("avx2", AVX2),
    ),
    "aarch64": (
        InstructionSet("neoni8mm", ("-march=armv8.2-a+dotprod+i8mm",)),
        InstructionSet("neondot", ("-march=armv8.2-a+dotprod",)),
    ),
}
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}  # other names of the same


class BuildError(Exception):
    """The message is for the user; `status` is the program's."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Compiler:
    command: tuple[str, ...]
    architecture: str  # that it compiles for

    def run(self, *arguments: str | Path) -> None:
        """Raises BuildError, with what the compiler says."""
        command = [*self.command, *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise BuildError(f"{shlex.join(command)}\n{result.stdout}{result.stderr}")

    def knows(self, flags: Sequence[str]) -> bool:
        """The assembler is asked, too: it may be older."""
        return compiles(self.command, [*flags, "-c"], "int nothing;\n")


def compiles(command: Sequence[str], flags: Sequence[str], text: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(text)
        line = [*command, *flags, str(source), "-o", str(Path(folder, "probe"))]
        return subprocess.run(line, capture_output=True, check=False).returncode == 0


def find_compiler(asked: str | None = None) -> Compiler:
    """The one that is asked for, $CXX, or the first that works. Raises BuildError where none does."""
    asked = asked or os.environ.get("CXX")
    for candidate in [asked] if asked else COMPILERS:
        command = tuple(shlex.split(candidate))
        if shutil.which(command[0]) and compiles(command, ["-std=c++17", "-shared", "-fPIC"], "#include <vector>\n"):
            machine = subprocess.run([*command, "-dumpmachine"], capture_output=True, text=True, check=True).stdout
            architecture = machine.strip().partition("-")[0]
            return Compiler(command, ARCHITECTURES.get(architecture, architecture))
    tried = asked or ", ".join(COMPILERS)
    raise BuildError(f"there is no working C++17 compiler (tried: {tried}); $CXX names one.", NO_COMPILER)


@dataclass(frozen=True, slots=True)
class Unit:
    """A translation unit: a source file compiled with flags of its own."""

    source: Path
    name: str
    flags: tuple[str, ...] = ()


def choose_sets(compiler: Compiler) -> list[InstructionSet]:
    """Those of the architecture that the compiler can make, best first."""
    known = []
    for candidate in INSTRUCTION_SETS.get(compiler.architecture, ()):
        if compiler.knows(candidate.flags):
            known.append(candidate)
        else:
            say(f"{candidate.name} is left out: {compiler.command[0]} does not know {' '.join(candidate.flags)}")
    return known


def units_of(sources: Path, sets: Sequence[InstructionSet]) -> list[Unit]:
    """What is to be compiled, the longest first. The plain files are told which sets there are, as
    SLOTWISE_SETS(X) = X(avx512) X(avx2) …"""
    listed = "-DSLOTWISE_SETS(X)=" + "".join(f"X({one.name})" for one in sets)
    simd = [
        Unit(sources / SIMD_SOURCE, f"simd_{one.name}", (f"-DSLOTWISE_ISA={one.name}", *one.flags))
        for one in sets
        if (sources / SIMD_SOURCE).is_file()
    ]
    plain = [Unit(path, path.stem, (listed,)) for path in sorted(sources.glob("*.cpp")) if path.name != SIMD_SOURCE]
    return simd + plain


def build(out: Path, compiler: Compiler, flags: Sequence[str] = (), sources: Path = SOURCES) -> list[str]:
    """Makes the library at `out`; a server that has the old one open keeps it. Returns the names of its instruction
    sets. Raises BuildError."""
    sets = choose_sets(compiler)
    units = units_of(sources, sets)
    if not units:
        raise BuildError(f"there is no C++ source in {sources}")
    with tempfile.TemporaryDirectory() as folder:
        objects = [Path(folder, f"{unit.name}.o") for unit in units]

        def compile_one(unit: Unit, target: Path) -> None:
            compiler.run(*FLAGS, *flags, *unit.flags, "-c", unit.source, "-o", target)

        with ThreadPoolExecutor(num_cores()) as pool:
            list(pool.map(compile_one, units, objects))
        new = out.with_name(f".{out.name}.new")  # in the same folder, so that it takes the old one's place in one go
        compiler.run("-shared", "-pthread", *flags, *objects, "-o", new)
        new.replace(out)
    return [one.name for one in sets]


def num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def say(line: str) -> None:
    sys.stderr.write(f"slotwise: {line}\n")


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Builds the native CPU backend.")
    parser.add_argument("--compiler", metavar="COMMAND", help="C++ compiler, for any target [$CXX, or what is there]")
    parser.add_argument("--sanitize", metavar="NAMES", help="with these sanitizers, such as address,undefined")
    parser.add_argument("--strict", action="store_true", help="a warning of the compiler is an error")
    parser.add_argument("--sources", type=Path, default=SOURCES, metavar="FOLDER", help="[%(default)s]")
    parser.add_argument("--out", type=Path, default=LIBRARY, metavar="FILE", help="[%(default)s]")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Status 0: built; 3: no compiler; 1: it failed. The old library is gone in any case."""
    arguments = read_arguments(words)
    flags = ["-Werror"] if arguments.strict else []
    if arguments.sanitize:
        flags += [*SANITIZER_FLAGS, f"-fsanitize={arguments.sanitize}"]
    arguments.out.unlink(missing_ok=True)
    try:
        compiler = find_compiler(arguments.compiler)
        sets = build(arguments.out, compiler, flags, arguments.sources)
    except BuildError as error:
        say(str(error))
        return error.status
    say(f"built {arguments.out} with {shlex.join(compiler.command)}, for {' '.join([*sets, 'scalar'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
