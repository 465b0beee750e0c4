"""Figures, what each must hold to, and the table that says whether it does. Nothing is measured here."""

import math
import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rich.console import Console
from rich.table import Table

HOLDS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {"≤": operator.le, "<": operator.lt, "≥": operator.ge, "=": operator.eq}
)


@dataclass(frozen=True, slots=True)
class Figure:
    """`relation` and `bound`: what it must hold to; None: it is only told."""

    name: str
    value: float
    unit: str = ""
    relation: str = "≤"
    bound: float | None = None

    @property
    def is_met(self) -> bool:
        """What could not be measured (NaN) holds to nothing."""
        return self.bound is None or HOLDS[self.relation](self.value, self.bound)

    @property
    def wanted(self) -> str:
        return "" if self.bound is None else f"{self.relation} {self.bound:g} {self.unit}"


def verdict(title: str, figures: Sequence[Figure], notes: Sequence[str] = ()) -> int:
    """Prints the table; the exit status: 1 if one figure is missed."""
    table = Table("figure", "measured", "wanted", "", title=title, title_justify="left")
    for figure in figures:
        mark = "" if figure.bound is None else "pass" if figure.is_met else "FAIL"
        table.add_row(figure.name, f"{figure.value:,.6g} {figure.unit}", figure.wanted, mark)
    console = Console(width=110)
    console.print(table)
    for note in notes:
        console.print(f"note: {note}")
    return 0 if all(figure.is_met for figure in figures) else 1


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed; NaN of none."""
    ranked = sorted(values)
    return ranked[max(math.ceil(percent / 100 * len(ranked)) - 1, 0)] if ranked else math.nan


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Per unit of time, by least squares; NaN of fewer than two samples."""
    if len(set(times)) < 2:
        return math.nan
    return statistics.linear_regression(times, values).slope


@dataclass(frozen=True, slots=True)
class Separation:
    """How far two samples can be told apart: 0.5, not at all. The chance that a value of the second is above one of the
    first (Mann-Whitney), and the half width of its 95 % interval."""

    auc: float
    margin: float

    @classmethod
    def of(cls, first: Sequence[float], second: Sequence[float]) -> "Separation":
        """The interval is that of DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988): by the variance of each
        value's own share. Each sample needs two values."""
        above = [_share_below(value, first) for value in second]
        below = [1 - _share_below(value, second) for value in first]
        variance = statistics.variance(above) / len(above) + statistics.variance(below) / len(below)
        return cls(statistics.fmean(above), 1.96 * math.sqrt(variance))


def _share_below(value: float, sample: Sequence[float]) -> float:
    return statistics.fmean(1.0 if other < value else 0.5 if other == value else 0.0 for other in sample)
