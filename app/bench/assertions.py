"""What a load must have held to, in one short line each, for an exit status that a pipeline can read:
`p99_ttft<800ms`, `output_throughput>=500`, `failed<1%`, and against a baseline `output_throughput>=0.95x`.
"""

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from app.bench.quantities import STATISTIC, Quantity, UnknownQuantity, in_words, load_of, quantity_of, value_of
from app.bench.records import RunResult

SHAPE = re.compile(r"\s*([\w.]+)\s*(<=|>=|==|!=|<|>)\s*([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*(\S*)\s*")
COMPARISONS = MappingProxyType(
    {
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
        "==": operator.eq,
        "!=": operator.ne,
    }
)
# How many of a quantity's own unit are one of the unit that is written.
FACTORS = MappingProxyType(
    {
        "ms": MappingProxyType({"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}),
        "s": MappingProxyType({"ms": 1e-3, "s": 1.0, "min": 60.0}),
        "share": MappingProxyType({"%": 0.01}),
    }
)
OF_REQUESTS = ("completed", "failed", "cancelled")
PERCENT, RATIO = "%", "x"


class BadAssertion(ValueError):
    """A line that is no assertion; says what would be one."""


@dataclass(frozen=True, slots=True)
class Assertion:
    text: str
    quantity: Quantity
    comparison: str
    limit: float  # in the quantity's unit; a share of all requests; a ratio to the baseline
    unit: str

    @property
    def percentile(self) -> float | None:
        """The one that the load must report for this to be decided."""
        found = STATISTIC.fullmatch(self.quantity.key)
        return float(found[1][1:]) if found and found[1].startswith("p") else None

    def holds_for(self, value: float) -> bool:
        compare: Callable[[float, float], bool] = COMPARISONS[self.comparison]
        return compare(value, self.limit)


@dataclass(frozen=True, slots=True)
class Outcome:
    assertion: Assertion
    load: str
    value: float | None  # None: the result cannot say, which is a failure

    @property
    def holds(self) -> bool:
        return self.value is not None and self.assertion.holds_for(self.value)

    def __str__(self) -> str:
        unit = self.assertion.unit
        found = "there is no such figure" if self.value is None else f"it is {in_words(self.value, unit)}"
        return f"{'holds' if self.holds else 'FAILS'}: {self.assertion.text} ({self.load}: {found})"


def parse_assertion(text: str, *, has_baseline: bool = False) -> Assertion:
    """Raises BadAssertion, also for a figure that no result has, so that a slip is found before the load is run."""
    found = SHAPE.fullmatch(text)
    if not found:
        raise BadAssertion(f"{text!r} is not like 'p99_ttft<800ms': a figure, a comparison, a number and its unit")
    name, comparison, number, unit = found.groups()
    try:
        quantity = quantity_of(name)
    except UnknownQuantity as error:
        raise BadAssertion(f"{text!r}: {error}") from error
    if unit == RATIO and not has_baseline:
        raise BadAssertion(f"{text!r}: a ratio needs a baseline, which `bench compare` has")
    if unit == RATIO or (unit == PERCENT and quantity.key in OF_REQUESTS):
        kind, whole = (RATIO, 1.0) if unit == RATIO else ("share", 100.0)
        return Assertion(text.strip(), quantity, comparison, float(number) / whole, kind)
    return Assertion(text.strip(), quantity, comparison, float(number) * _factor(text, quantity, unit), quantity.unit)


def _factor(text: str, quantity: Quantity, unit: str) -> float:
    factors = FACTORS.get(quantity.unit, {quantity.unit: 1.0})
    if not unit:
        return 1.0
    if unit not in factors:
        fitting = ", ".join(name for name in factors if name) or "a plain number"
        raise BadAssertion(f"{text!r}: {quantity.key} is not measured in {unit!r} but in {fitting}")
    return factors[unit]


def check(assertion: Assertion, result: RunResult, baseline: RunResult | None = None) -> Outcome:
    return Outcome(assertion, load_of(result), _measured(assertion, result, baseline))


def check_all(assertions: Sequence[Assertion], results: Iterable[RunResult]) -> list[Outcome]:
    """Each assertion on each load."""
    return [check(assertion, result) for result in results for assertion in assertions]


def _measured(assertion: Assertion, result: RunResult, baseline: RunResult | None) -> float | None:
    value = value_of(result, assertion.quantity.key)
    if value is None:
        return None
    if assertion.unit == RATIO:
        return ratio(value, value_of(baseline or {}, assertion.quantity.key))
    if assertion.unit == "share" and assertion.quantity.key in OF_REQUESTS:
        return ratio(value, sum(value_of(result, key) or 0.0 for key in OF_REQUESTS))
    return value


def ratio(value: float | None, base: float | None) -> float | None:
    """None where there is none: nothing to divide, or by nothing."""
    if value is None or base is None or (base == 0 and value != 0):
        return None
    return value / base if base else 1.0
