"""The list of planted faults against the tree, so that it cannot rot: `python -m tests.mutants.run` plants them."""

from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.mutant import Mutant, read_list

ROOT = Path(__file__).parents[2]
MUTANTS = read_list()
FEWEST = {"allocator": 4, "scheduler": 4, "attention": 4, "sampler": 3, "detokenizer": 3, "stream": 2}


def is_there(test: str) -> bool:
    path, _, name = test.partition("::")
    return (ROOT / path).is_file() and (not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_planted_and_has_tests_to_catch_it(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert source.count(mutant.text) == 1, "the code has changed: plant the same fault in what it has become"
    assert mutant.plant(source) != source
    assert mutant.tests
    assert [test for test in mutant.tests if not is_there(test)] == []
    assert mutant.story.endswith(".")


def test_names_are_unique_and_no_fault_is_listed_twice() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.file, mutant.text, mutant.replacement) for mutant in MUTANTS}) == len(MUTANTS)


def test_every_area_has_enough() -> None:
    numbers = Counter(mutant.area for mutant in MUTANTS)
    assert numbers.keys() == FEWEST.keys()
    assert all(numbers[area] >= fewest for area, fewest in FEWEST.items())
    assert numbers.total() >= 24
