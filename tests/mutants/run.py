"""`python -m tests.mutants.run [NAME …]`: plants the faults of `mutants.toml`, one at a time, in a copy of the tree,
and runs the tests that are to catch each. First it shows that these pass without any. Status 1 if a fault survives.

A test that fails catches a fault; so does a run that crashes or finds no end. Anything else that keeps the tests from
running, such as a file that cannot be imported, does not.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutant import Mutant, read_list
from tests.mutants.native_build import NativeBuild

ROOT = Path(__file__).parents[2]
TREE = ("app", "model", "tests", "pyproject.toml", "README.md")
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*_cache", ".hypothesis")
LIMIT_S = 300.0  # of all tests of a mutant: several times what they take on two busy cores
PYTEST = (sys.executable, "-m", "pytest", "-x", "-vv", "--tb=no", "-p", "no:cacheprovider", "--hypothesis-seed=0")
TESTS_FAILED, ALL_PASSED = 1, 0
TEST_LINE = re.compile(r"^(tests/\S+\.py::.+?)(?: (?:PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b.*)?$", re.M)


@dataclass(frozen=True, slots=True)
class Outcome:
    is_caught: bool
    said: str  # the test that caught it, or what was instead
    seconds: float


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[int | None, str]:
    """Pytest's status (negative: it was killed by a signal; None: it found no end) and its output."""
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("SLOTWISE_TEST_LIBRARY", None)
    command = [*PYTEST, *tests]
    process = subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
        status: int | None = process.returncode
    except BaseException as error:  # an interrupt, too, may leave nothing running
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        status = None
    return status, output.decode(errors="replace")


def judge(status: int | None, output: str, seconds: float) -> Outcome:
    seen = TEST_LINE.findall(output)
    last = seen[-1].removeprefix("tests/") if seen else "no test"
    if status == TESTS_FAILED:
        return Outcome(True, last, seconds)
    if status is None:
        return Outcome(True, f"{last}: no end", seconds)
    if status < 0:
        return Outcome(True, f"{last}: {signal.Signals(-status).name}", seconds)
    said = "SURVIVED" if status == ALL_PASSED else f"NO TEST COULD RUN (status {status})\n{output[-2000:]}"
    return Outcome(False, said, seconds)


@contextmanager
def planted(mutant: Mutant, tree: Path, native: NativeBuild | None) -> Iterator[None]:
    file = tree / mutant.file
    source = file.read_text(encoding="utf-8")
    file.write_text(mutant.plant(source), encoding="utf-8")
    try:
        if mutant.is_native:
            assert native is not None
            with tempfile.TemporaryDirectory() as objects:
                native.rebuild(file.name, Path(objects))
        yield
    finally:
        file.write_text(source, encoding="utf-8")
        if native is not None and mutant.is_native:
            native.restore()


def try_one(mutant: Mutant, tree: Path, native: NativeBuild | None) -> Outcome:
    started = time.monotonic()
    with planted(mutant, tree, native):
        status, output = run_tests(tree, mutant.tests)
    shutil.rmtree(tree / ".hypothesis", ignore_errors=True)  # no mutant profits from what was found for another
    return judge(status, output, time.monotonic() - started)


def copy_tree(tree: Path) -> None:
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=LEFT_OUT)
        else:
            shutil.copy2(source, tree / name)


def all_are_caught(mutants: Sequence[Mutant], folder: Path) -> bool:
    tree, objects = folder / "tree", folder / "objects"
    tree.mkdir()
    objects.mkdir()
    copy_tree(tree)
    started = time.monotonic()
    native = NativeBuild(tree, objects) if any(mutant.is_native for mutant in mutants) else None
    if native is not None:
        say(f"built the native library for {native.sets} in {time.monotonic() - started:.0f} s")
    if not pass_unmutated(tree, mutants):
        return False
    width = max(len(mutant.name) for mutant in mutants)
    num_caught = 0
    for mutant in mutants:
        outcome = try_one(mutant, tree, native)
        num_caught += outcome.is_caught
        say(f"{mutant.area:11}  {mutant.name:{width}}  {outcome.seconds:4.0f} s  {outcome.said}")
    say(f"caught {num_caught} of {len(mutants)} in {time.monotonic() - started:.0f} s")
    return num_caught == len(mutants)


def pass_unmutated(tree: Path, mutants: Sequence[Mutant]) -> bool:
    started = time.monotonic()
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    status, output = run_tests(tree, tests)
    seconds = time.monotonic() - started
    if status == ALL_PASSED:
        say(f"without a fault, {output.strip().splitlines()[-1].strip('= ')}: {len(tests)} files")
    else:
        say(f"{output[-4000:]}\nwithout a fault, the tests do not pass: status {status} after {seconds:.0f} s")
    return status == ALL_PASSED


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Plants faults and shows which test catches each.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of mutants, or of areas [all]")
    asked = parser.parse_args(words).names
    known = read_list()
    if unknown := set(asked) - {word for mutant in known for word in (mutant.name, mutant.area)}:
        parser.error(f"there is no {', no '.join(sorted(unknown))}")
    mutants = [mutant for mutant in known if not asked or mutant.name in asked or mutant.area in asked]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        return 0 if all_are_caught(mutants, Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
