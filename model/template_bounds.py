"""How much a chat template may make, and for how long: the sandbox keeps a template from reaching out, this keeps it
from growing. Each loop and each macro looks at the clock, and whatever makes one long value of small ones is asked
first how long it will be: operators, filters, methods of texts, lists, output. Nothing is known here of chats.

It reckons in characters, an item of a list being worth some. A value that is reached in two ways counts twice, because
it is printed, compared and written as JSON twice.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MOST_SECONDS = 5.0  # for a rendering, which takes milliseconds
MOST_CHARACTERS = 1 << 24  # of one value: four times as many as can be tokenized
MOST_IN_ALL = 1 << 28  # of all that a rendering makes by the way
_MOST_BITS = 1 << 17  # of an integer
_ITEM = 64  # of a list, in characters: about the memory it takes, and the time to look at it
_WIDTH = 10_000  # the widest field that a format may ask for: its digits are four

# Methods of texts and integers that no chat needs: they make bytes, which are not weighed, or of each letter a text.
_UNBOUNDED = frozenset({"encode", "to_bytes", "translate"})

# A filter and a variable that no template can name.
_JOINED, _CHARGED, _TIME, EFFORT = "joined", "charged", "time left", "effort of the template"
_PERCENT_FIELD = re.compile(r"%[^A-Za-z%]*(?:\*|\d{5})")
_BRACE_FIELD = re.compile(r"\{[^{}]*(?:\{|\d{5})")


class TemplateBound(TemplateError):
    """A template that takes too long, or would take too much memory."""


class Effort:
    """What one rendering may still do."""

    def __init__(self) -> None:
        self.deadline = time.monotonic() + MOST_SECONDS
        self.characters = MOST_IN_ALL

    def charge(self, value: Any) -> Any:
        self.characters -= len(value) if isinstance(value, str) else weigh(value)
        if self.characters < 0:
            raise _too_long(MOST_IN_ALL)
        return value

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise TemplateBound(f"the chat template took more than {MOST_SECONDS:g} seconds and was stopped.")


def weigh(value: Any, indent: int = 0) -> int:
    """Characters, or a TemplateBound if they are too many. `indent`: so many more for each item, at each depth."""
    total, waiting = 0, [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, Mapping | list | tuple | set | frozenset):
            total = _allowed(total + len(item) * (_ITEM + indent * (depth + 1)))
            waiting += [(key, depth + 1) for key in item]
            if isinstance(item, Mapping):
                waiting += [(inner, depth + 1) for inner in item.values()]
        _allowed(total)
    return total


def _allowed(characters: int) -> int:
    if characters > MOST_CHARACTERS:
        raise _too_long(MOST_CHARACTERS)
    return characters


def _too_long(most: int) -> TemplateBound:
    return TemplateBound(f"the chat template makes texts or lists of more than {most:,} characters and was stopped.")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Renders only with an `Effort` among the variables, under the name EFFORT."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, filters: Mapping[str, Callable[..., Any]], **options: Any) -> None:
        """`filters`: besides jinja2's, or in their place."""
        super().__init__(**options)
        del self.globals["lipsum"]  # as many words as one likes
        self.filters = {name: _bounded(name, function) for name, function in (self.filters | dict(filters)).items()}
        self.filters |= {_JOINED: _joined, _CHARGED: _charged, _TIME: _check_time}
        self.finalize = _charged

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Of a whole template, or of a macro."""
        return "".join(_as_long_as_allowed(pieces))

    def compile_bounded(self, source: str) -> Template:
        return self.from_string(_Bounds().visit(self.parse(source)))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operands(operator, left, right)
        return _effort(context).charge(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        is_unbounded = isinstance(obj, str | int) and attr in _UNBOUNDED
        return not is_unbounded and super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(function, "__wrapped__", function)  # str.format is wrapped by the sandbox
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            args = tuple(map(_whole, args))
            _allowed(_estimate(getattr(method, "__name__", ""), owner, [*args, *kwargs.values()]))
        return _effort(context).charge(super().call(context, function, *args, **kwargs))


def _effort(context: Context) -> Effort:
    effort: Effort = context.parent[EFFORT]
    return effort


def _as_long_as_allowed(pieces: Iterable[str]) -> Iterator[str]:
    total = 0
    for piece in pieces:
        total = _allowed(total + len(piece))
        yield piece


class _Bounds(NodeTransformer):
    """What no environment is asked about becomes a filter, which is; loops and macros look at the clock."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(_JOINED, nodes.Tuple(node.nodes, "load"))

    def visit_List(self, node: nodes.List | nodes.Dict | nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        is_target = isinstance(node, nodes.Tuple) and node.ctx != "load"
        return node if is_target else _filter(_CHARGED, node)

    visit_Dict = visit_Tuple = visit_List  # noqa: N815

    def visit_For(self, node: nodes.For | nodes.Macro) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_filter(_TIME, nodes.Const(None))))
        return node

    visit_Macro = visit_For  # noqa: N815


def _filter(name: str, node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None)


@pass_context
def _joined(context: Context, values: tuple[Any, ...]) -> Any:
    weigh(values)
    return _effort(context).charge("".join(map(str, values)))


@pass_context
def _charged(context: Context, value: Any) -> Any:
    return _effort(context).charge(value)


@pass_context
def _check_time(context: Context, _: None) -> None:
    _effort(context).check_time()


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, asked first, and charged for."""
    kind = getattr(getattr(function, "jinja_pass_arg", None), "name", "")

    @wraps(function)
    def bounded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        value = _whole(value)
        _allowed(_estimate(name, value, [*args, *kwargs.values()]))
        passed = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        first = [passed[kind]] if kind else []
        _effort(context).check_time()
        return _effort(context).charge(function(*first, value, *args, **kwargs))

    return pass_context(bounded)


def _whole(value: Any) -> Any:
    """What `map` and the like give comes item by item, and cannot be weighed."""
    return list(value) if isinstance(value, Iterator) else value


def _check_operands(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _MOST_BITS:
            raise TemplateBound("the chat template computes with enormous numbers and was stopped.")
    elif operator == "*":
        number, value = (left, right) if isinstance(left, int) else (right, left)
        _allowed(number * (weigh(value) + 1) if isinstance(number, int) else 0)
    elif operator == "+":
        _allowed(weigh(left) + weigh(right))
    elif operator == "%" and isinstance(left, str):
        _allowed(_of_format(left, left.count("%"), right, _PERCENT_FIELD.search(left) is not None))


def _estimate(name: str, value: Any, args: list[Any]) -> int:
    """The most characters that a filter, or a method of a text, may make of `value`; zero where it adds none."""
    widths = [abs(arg) for arg in args if isinstance(arg, int)]
    texts = [arg for arg in args if isinstance(arg, str)]
    width = max([*widths, *map(len, texts)], default=0)
    match name:
        case "center" | "ljust" | "rjust" | "zfill" | "wordwrap" | "truncate":
            return width
        case "batch" | "slice":
            return width * _ITEM
        case "indent" | "expandtabs":
            return (1 + sum(map(str(value).count, "\n\t"))) * width
        case "tojson":
            return weigh(value, width)
        case "pprint" | "sum" if not widths:
            return weigh(value) * 100
        case "round":
            return width * _WIDTH
    return _estimate_of_parts(name, value, args, texts)


def _estimate_of_parts(name: str, value: Any, args: list[Any], texts: list[str]) -> int:
    """Of what puts texts into others."""
    match name:
        case "replace" if len(texts) > 1:
            return str(value).count(texts[0]) * len(texts[1])
        case "join" if isinstance(value, str) and args:  # ", ".join(items)
            return weigh(args[0]) + len(args[0]) * len(value)
        case "join":  # items | join(", ")
            return weigh(value) + len(value) * sum(map(len, texts))
        case "format" | "format_map":
            fields = max(str(value).count("{"), str(value).count("%"))
            has_wide = _BRACE_FIELD.search(str(value).replace("{{", "")) or _PERCENT_FIELD.search(str(value))
            return _of_format(str(value), fields, args, has_wide is not None)
    return 0


def _of_format(text: str, num_fields: int, values: Any, has_wide: bool) -> int:
    widest = _WIDTH if re.search(r"\d{3}", text) else 100
    return MOST_CHARACTERS + 1 if has_wide else len(text) + num_fields * (weigh(values) + widest)
