"""The build, on a small folder of sources with the compiler that is here; and pip's way to it, without hatchling."""

import ctypes
import importlib.util
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from model.native import build, library

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, build.COMPILERS)), reason="there is no C++ compiler")
HEAD = '#define EXPORTED extern "C" __attribute__((visibility("default")))\n'
PLAIN = """#define NAME(set) #set " "
EXPORTED const char* sets() { return "" SLOTWISE_SETS(NAME); }
int hidden() { return 1; }
"""
SIMD = """#define PASTE(a, b) a##b
#define NAMED(a, b) PASTE(a, b)
EXPORTED int NAMED(answer_, SLOTWISE_ISA)() { return 42; }
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "choose.cpp").write_text(HEAD + PLAIN)
    (folder / "simd.cpp").write_text(HEAD + SIMD)
    return folder


def run_build(sources: Path, *words: str) -> tuple[int, Path]:
    out = sources.parent / "library.so"
    return build.main(["--sources", str(sources), "--out", str(out), *words]), out


def write_compiler(path: Path, machine: str = "", ok: bool = True) -> str:
    """A compiler that says another machine, or fails."""
    real = next(filter(None, map(shutil.which, build.COMPILERS)), "false")
    answer = f'[ "$1" = -dumpmachine ] && echo {machine} && exit 0\n' if machine else ""
    path.write_text(f'#!/bin/sh\n{answer}{f"exec {shlex.quote(real)}" if ok else "exit 1 #"} "$@"\n')
    path.chmod(0o755)
    return str(path)


@needs_compiler
def test_the_simd_source_is_compiled_once_for_each_set(sources: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, out = run_build(sources)
    assert status == 0
    made = ctypes.CDLL(str(out))
    made.sets.restype = ctypes.c_char_p
    sets = made.sets().decode().split()
    known = build.INSTRUCTION_SETS[build.find_compiler().architecture]
    assert sets == [one.name for one in known if f"{one.name} is left out" not in capfd.readouterr().err]
    assert all(getattr(made, f"answer_{name}")() == 42 for name in sets)
    assert not hasattr(made, "_Z6hiddenv")
    assert sorted(path.name for path in sources.parent.iterdir()) == ["library.so", "src"]


@needs_compiler
def test_a_set_that_the_compiler_does_not_know_is_left_out(
    sources: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sets = (build.InstructionSet("future", ("-mfuture-vectors",)), build.InstructionSet("plain", ()))
    monkeypatch.setattr(build, "INSTRUCTION_SETS", dict.fromkeys(build.INSTRUCTION_SETS, sets))
    assert run_build(sources)[0] == 0
    said = capfd.readouterr().err.splitlines()
    assert said[0].startswith("slotwise: future is left out: ")
    assert said[0].endswith("does not know -mfuture-vectors")
    assert said[1].endswith(", for plain scalar")


@needs_compiler
def test_a_machine_without_sets_gets_the_plain_sources(sources: Path, tmp_path: Path) -> None:
    status, out = run_build(sources, "--compiler", write_compiler(tmp_path / "cxx", machine="riscv64-linux-gnu"))
    made = ctypes.CDLL(str(out))
    made.sets.restype = ctypes.c_char_p
    assert (status, made.sets()) == (0, b"")


@needs_compiler
def test_the_compiler_says_what_it_compiles_for(tmp_path: Path) -> None:
    asked = write_compiler(tmp_path / "cxx", machine="arm64-apple-darwin23.1.0")
    assert build.find_compiler(asked) == build.Compiler((asked,), "aarch64")


@needs_compiler
def test_cxx_is_a_command_with_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", write_compiler(tmp_path / "cxx") + " -DX='1 2'")
    assert build.find_compiler().command == (str(tmp_path / "cxx"), "-DX=1 2")


def test_without_a_compiler_nothing_is_left(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "library.so").write_text("of yesterday")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    write_compiler(tmp_path / "c++", ok=False)
    assert run_build(sources) == (build.NO_COMPILER, tmp_path / "library.so")
    assert "no working C++17 compiler (tried: g++, clang++, c++)" in capfd.readouterr().err
    assert not (tmp_path / "library.so").exists()


@needs_compiler
def test_a_mistake_in_a_source_is_shown(sources: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (sources / "model.cpp").write_text("int f() { return nothing; }\n")
    status, out = run_build(sources)
    said = capfd.readouterr().err
    assert (status, out.exists()) == (build.FAILED, False)
    assert "model.cpp:1" in said
    assert "nothing" in said
    assert sorted(path.name for path in sources.parent.iterdir()) == ["src"]


def test_a_folder_without_sources_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(build.BuildError, match="no C\\+\\+ source in "):
        build.build(tmp_path / "x.so", build.Compiler(("c++",), "riscv64"), sources=tmp_path)


@needs_compiler
def test_a_warning_is_an_error_only_where_it_is_asked_for(sources: Path) -> None:
    (sources / "model.cpp").write_text("static int f() { return 1; }\n")
    assert run_build(sources)[0] == 0
    assert run_build(sources, "--strict")[0] == build.FAILED


@needs_compiler
def test_sanitizers_are_built_in(sources: Path) -> None:
    status, out = run_build(sources, "--sanitize", "undefined")
    if status:
        pytest.skip("this compiler has no sanitizer")
    (sources / "model.cpp").write_text(HEAD + "EXPORTED int shift(int n) { return 1 << n; }\n")
    assert run_build(sources, "--sanitize", "undefined")[0] == 0
    assert b"__ubsan" in out.read_bytes()


def test_it_is_built_where_it_is_looked_for() -> None:
    assert build.LIBRARY == library.LIBRARY


@needs_compiler
def test_the_sources_of_this_checkout_compile_without_a_warning() -> None:
    compiler = build.find_compiler()
    for unit in build.units_of(build.SOURCES, build.choose_sets(compiler)):
        compiler.run(*build.FLAGS, *unit.flags, "-Werror", "-fsyntax-only", unit.source)


# ── pip ──


class FakeInterface:
    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.app = types.SimpleNamespace(display_info=print, display_warning=print)


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hook as hatchling makes it, for a tree with a build program to be written."""
    plugin, tags = types.ModuleType("interface"), types.ModuleType("packaging.tags")
    plugin.BuildHookInterface = FakeInterface  # type: ignore[attr-defined]
    tags.platform_tags = lambda: iter(["manylinux_2_36_x86_64", "linux_x86_64"])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hatchling.builders.hooks.plugin.interface", plugin)
    monkeypatch.setitem(sys.modules, "packaging.tags", tags)
    spec = importlib.util.spec_from_file_location("hook", Path(build.__file__).with_name("build_hook.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "model" / "native").mkdir(parents=True)
    return module.NativeBuildHook(tmp_path)


def write_program(root: Path, program: str) -> None:
    (root / "model" / "native" / "build.py").write_text(
        f"import sys, pathlib\nhere = pathlib.Path(__file__)\n{program}"
    )


def test_a_wheel_with_the_library_is_for_this_platform_and_every_python(hook: Any, tmp_path: Path) -> None:
    write_program(tmp_path, "here.with_name('libslotwise.so').write_text('')")
    data: dict[str, Any] = {"artifacts": []}
    hook.initialize("standard", data)
    assert data == {
        "artifacts": ["/model/native/libslotwise.so"],
        "pure_python": False,
        "tag": "py3-none-linux_x86_64",
    }


def test_where_it_cannot_be_built_the_wheel_is_for_every_machine(
    hook: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_program(tmp_path, "sys.exit('slotwise: no compiler')")
    data: dict[str, Any] = {"artifacts": []}
    hook.initialize("standard", data)
    assert data == {"artifacts": []}
    assert capsys.readouterr().out.splitlines() == [
        "slotwise: no compiler",
        "slotwise is installed without its native CPU backend: torch will compute.",
    ]


@needs_compiler
def test_the_program_needs_nothing_of_this_project(sources: Path, tmp_path: Path) -> None:
    """As in pip's build environment: another folder, and only the standard library."""
    program = [sys.executable, "-I", build.__file__, "--sources", str(sources), "--out", str(tmp_path / "x.so")]
    subprocess.run(program, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "x.so").is_file()
