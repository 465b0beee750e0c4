"""The README against the code: the file tree, the option table, the list of accepted extras, the files it names."""

import re
from pathlib import Path

import pytest

from app.api.schemas.wire import HARMLESS, NEUTRAL
from app.arguments import options_of
from app.settings import ServeSettings
from tests.parameter_table import table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "app/api/README.md").read_text()
ON_THE_TREE = ("app", "model", "docker")  # every file of these has a line; of the rest, the top level
TREE_LINE = re.compile(r"^(?P<indent> *)(?P<name>[\w./-]+)\s{2,}(?P<about>\S.*)$")


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def tree_paths() -> set[str]:
    """The paths of the tree in the README, two spaces of indent a level."""
    paths, folders = set(), [""]
    for line in section("What is where").split("```")[1].strip("\n").splitlines():
        match = TREE_LINE.match(line)
        assert match, f"a line of the tree has no explanation: {line!r}"
        depth = len(match["indent"]) // 2
        path = folders[depth] + match["name"]
        folders[depth + 1 :] = [path]
        paths.add(path)
    return paths


def real_paths() -> set[str]:
    top = [path for path in ROOT.iterdir() if not path.name.startswith(".")]
    files = {path.relative_to(ROOT).as_posix() for name in ON_THE_TREE for path in (ROOT / name).rglob("*")}
    files |= {path.name for path in top if path.is_file()}
    return {name for name in files if "__" not in name and "/libslotwise." not in name and (ROOT / name).is_file()}


def test_the_tree_has_a_line_for_every_file_and_no_other() -> None:
    listed = {path for path in tree_paths() if not path.endswith("/")}
    assert listed == real_paths()


def test_every_folder_of_the_tree_exists() -> None:
    for path in tree_paths():
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("option", options_of(ServeSettings), ids=lambda option: option.flag)
def test_the_option_table_says_what_the_code_does(option) -> None:  # type: ignore[no-untyped-def]
    row = f"| `{option.flag}` | `{option.environment}` | {option.default} | {option.meaning} |"
    assert row in section("Options").splitlines()


def test_the_option_table_has_no_other_row() -> None:
    rows = [line for line in section("Options").splitlines() if line.startswith("| `")]
    assert len(rows) == len(options_of(ServeSettings))


def test_the_parameter_table_is_that_of_the_schemas() -> None:
    lines = REFERENCE.splitlines()
    start = lines.index(table()[0])

    assert lines[start : lines.index("", start)] == table(), "python -m tests.parameter_table prints it"


def test_the_accepted_extras_are_the_documented_ones() -> None:
    text = REFERENCE.split("**Nothing is ignored in silence.**")[1]
    harmless, neutral = text.split("these are accepted where")
    assert set(re.findall(r"`(\w+)`", harmless)) == HARMLESS
    assert set(re.findall(r"`(\w+)`", neutral)) == set(NEUTRAL)


def test_the_files_that_the_promises_name_exist() -> None:
    for path in re.findall(r"`((?:app|model|tests)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path
