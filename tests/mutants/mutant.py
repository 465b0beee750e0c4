"""The list of planted faults, `mutants.toml`, as values. Plants nothing itself."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

LIST = Path(__file__).with_name("mutants.toml")
CXX = (".cpp", ".h")


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    area: str
    story: str  # what the fault would do to a user
    file: str  # relative to the root, as those of `tests`
    text: str  # stands there exactly once …
    replacement: str  # … and becomes this
    tests: tuple[str, ...]  # files, or FILE::TEST, of which one is to catch it

    @property
    def is_native(self) -> bool:
        return self.file.endswith(CXX)

    def plant(self, source: str) -> str:
        """The file with the fault in it."""
        assert source.count(self.text) == 1, f"{self.name}: the text is not once in {self.file}"
        return source.replace(self.text, self.replacement)


def read_list() -> list[Mutant]:
    tables = tomllib.loads(LIST.read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**table | {"tests": tuple(table["tests"])}) for table in tables]
