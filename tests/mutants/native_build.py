"""The native library of a copy of the tree, built again where a file was changed: for one instruction set, the best
that runs here, and the scalar one, and only what includes the file. Owns the object files between two builds."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from model.native import build
from model.native.library import NativeLibrary, NativeUnavailable

SOURCES, LIBRARY = (path.relative_to(build.FOLDER.parents[1]) for path in (build.SOURCES, build.LIBRARY))


def instruction_sets(compiler: build.Compiler) -> list[build.InstructionSet]:
    """The best set that runs here; where the checkout has no library to ask, all that the compiler can make."""
    possible = build.choose_sets(compiler)
    try:
        best = NativeLibrary.open().instruction_sets()[0]
    except NativeUnavailable:
        return possible
    return [one for one in possible if one.name == best]


def included(source: Path) -> set[str]:
    """Names of the file and of all that it includes, in that folder."""
    names: set[str] = set()
    pending = [source.name]
    while pending:
        name = pending.pop()
        if name not in names and (source.parent / name).is_file():
            names.add(name)
            pending += re.findall(r'^#include "(.+)"', (source.parent / name).read_text(encoding="utf-8"), re.M)
    return names


class NativeBuild:
    def __init__(self, tree: Path, objects: Path) -> None:
        """Builds all of it. Raises BuildError."""
        self._library = tree / LIBRARY
        self._compiler = build.find_compiler()
        sets = instruction_sets(self._compiler)
        self._units = build.units_of(tree / SOURCES, sets)
        self._sets = [one.name for one in sets]
        self._objects = {unit.name: objects / f"{unit.name}.o" for unit in self._units}
        self._compile(self._units, self._objects)
        self._link(self._objects)

    @property
    def sets(self) -> str:
        return " ".join([*self._sets, "scalar"])

    def rebuild(self, changed: str, objects: Path) -> None:
        """With that file of the sources changed. The objects made of it lie in a folder of their own."""
        units = [unit for unit in self._units if changed in included(unit.source)]
        new = {unit.name: objects / f"{unit.name}.o" for unit in units}
        self._compile(units, new)
        self._link(self._objects | new)

    def restore(self) -> None:
        """The library as it was before the change."""
        self._link(self._objects)

    def _compile(self, units: list[build.Unit], targets: dict[str, Path]) -> None:
        def compile_one(unit: build.Unit) -> None:
            self._compiler.run(*build.FLAGS, *unit.flags, "-c", unit.source, "-o", targets[unit.name])

        with ThreadPoolExecutor(build.num_cores()) as pool:
            list(pool.map(compile_one, units))

    def _link(self, objects: dict[str, Path]) -> None:
        new = self._library.with_name(f".{self._library.name}.new")
        self._compiler.run("-shared", "-pthread", *objects.values(), "-o", new)
        os.replace(new, self._library)
