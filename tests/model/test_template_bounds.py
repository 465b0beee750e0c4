"""What a chat template may not make: each of these would fill the memory, or take hours, in one operation or in few."""

import time

import pytest

from model import template_bounds
from model.chat_messages import ChatTemplateError, CostlyTemplateError
from model.chat_template import ChatTemplate
from model.template_bounds import MOST_CHARACTERS, Effort, TemplateBound, weigh

CHAT = [{"role": "user", "content": "ab"}]
LARGE = "{% set x = 'a' * 100000 %}"
DOUBLED = "{%% set n = namespace(x='aaaa') %%}{%% for i in range(60) %%}{%% set n.x = %s %%}{%% endfor %%}"
NESTED = DOUBLED % "[n.x, n.x]"


def render(source: str) -> str:
    return ChatTemplate(source, {}).render(CHAT)


@pytest.mark.parametrize(
    "expression",
    [
        "'a' * 10 ** 10",
        "10 ** 10 * 'a'",
        "[0] * 10 ** 10",
        "messages * 10 ** 8",
        "'a' | center(10 ** 10)",
        "'a'.center(10 ** 10)",
        "'a'.ljust(10 ** 10)",
        "'1'.zfill(10 ** 10)",
        "'\t'.expandtabs(10 ** 10)",
        "'%01000000000d' % 1",
        "'%*d' % (10 ** 9, 1)",
        "'%01000000000d' | format(1)",
        "'{:1000000000}'.format(1)",
        "'{:{}}'.format(1, 10 ** 9)",
        "'{a:1000000000}'.format_map({'a': 1})",
        "[1, [2]] | tojson(indent=10 ** 9)",
        "1.5 | round(10 ** 9, 'ceil')",
        "[1] | batch(10 ** 10, 'x') | list",
        "[1] | slice(10 ** 10) | list",
        "['a', 'b'] | map('center', 10 ** 10) | list",
        "range(99999) | map('center', 9999) | list",
    ],
)
def test_one_operation_makes_no_enormous_value(expression):
    with pytest.raises(CostlyTemplateError, match="makes texts or lists of more than"):
        render("{{ " + expression + " }}")


@pytest.mark.parametrize(
    "expression",
    [
        "(1).to_bytes(10 ** 10)",
        "'a'.encode().center(10 ** 10)",
        "'a'.translate({97: 'bb'})",
        "('a' | attr('encode'))()",
        "(['a'] | map(attribute='encode') | first)()",
    ],
)
def test_methods_whose_values_cannot_be_weighed_are_out_of_reach(expression):
    with pytest.raises(ChatTemplateError, match="is unsafe"):
        render("{{ " + expression + " }}")


@pytest.mark.parametrize(
    "source",
    [
        LARGE + "{{ x.replace('a', x) }}",
        LARGE + "{{ x | replace('a', x) }}",
        LARGE + "{{ x | list | join(x) }}",
        LARGE + "{{ x.join(x | list) }}",
        LARGE + "{{ ('{}' * 1000).format(x) }}{{ ('{0}' * 1000).format(x) }}",
        LARGE + "{{ ('%s' * 1000) | format(x) }}",
        LARGE + "{{ x.replace('a', '\\n') | indent(5000, true, true) }}",
        LARGE + "{% for i in range(99999) %}{{ x }}{% endfor %}",
        LARGE + "{% macro f() %}{% for i in range(99999) %}{{ x }}{% endfor %}{% endmacro %}{{ f() | length }}",
        "{% for i in range(99999) %}" + "literal text " * 1000 + "{% endfor %}",
        DOUBLED % "n.x ~ n.x" + "{{ n.x }}",
        DOUBLED % "n.x + n.x" + "{{ n.x }}",
        DOUBLED % "n.x.replace('a', 'aa')",
        NESTED + "{{ n.x }}",
        NESTED + "{{ n.x | tojson }}",
        NESTED + "{{ n.x ~ '' }}",
        NESTED.replace("[n.x, n.x]", "{'a': n.x, 'b': n.x}") + "{{ n.x }}",
        NESTED.replace("[n.x, n.x]", "(n.x, n.x)") + "{{ n.x == 5 }}",
        NESTED.replace("[n.x, n.x]", "dict(a=n.x, b=n.x)") + "{{ n.x | string }}",
        "{{ [" + "'a' * 16000000, " * 20 + "] | length }}",
    ],
)
def test_what_grows_by_and_by_is_stopped(source):
    with pytest.raises(CostlyTemplateError, match="makes texts or lists of more than"):
        render(source)


@pytest.mark.parametrize(
    "expression", ["9 ** (9 ** 9)", "9 ** (9 ** (8 + messages | length))", "(2 ** 99999) * 2 ** 99999"]
)
def test_enormous_numbers_are_not_computed(expression):
    with pytest.raises(CostlyTemplateError, match="enormous numbers"):
        render("{{ " + expression + " }}")


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("1.5 | round(1)", "1.5"),
        ("'ab' * 3", "ababab"),
        ("3 * [1]", "[1, 1, 1]"),
        ("2 ** 10 * 3", "3072"),
        ("2 ** 0.5 > 1", "True"),
        ("'a' ~ 1 ~ none", "a1None"),
        ("'%s=%05.1f' | format('x', 2)", "x=002.0"),
        ("'**%s**' % 'a'", "**a**"),
        ("'{{{}}}'.format(5)", "{5}"),
        ("'{a:>4}'.format(a=1)", "   1"),
        ("'x' | center(5)", "  x  "),
        ("['a', 'b'] | join(', ')", "a, b"),
        ("', '.join(['a', 'b'])", "a, b"),
        ("', '.join(['a', 'b'] | map('upper'))", "A, B"),
        ("', '.join(messages[0].values())", "user, ab"),
        ("'{a:>4}'.format_map({'a': 1})", "   1"),
        ("{'encode': 1, 'translate': 2}.translate", "2"),
        ("[[1], [2]] | sum(start=[])", "[1, 2]"),
        ("[1, 2, 3] | sum", "6"),
        ("messages | map(attribute='content') | join", "ab"),
        ("{'a': [1, {'b': none}]} | tojson(indent=2) | length", "51"),
        ("[3, 1] | sort | first", "1"),
        ("range(5) | batch(2, 'x') | list", "[[0, 1], [2, 3], [4, 'x']]"),
        ("'a\nb' | indent(2)", "a\n  b"),
        ("messages[0].content | default(1000000) | upper", "AB"),
        ("nothing | default('x') | length", "1"),
        ("nothing | join", ""),
        ("(1, 2) == (1, 2)", "True"),
    ],
)
def test_the_ordinary_is_as_ever(expression, text):
    assert render("{{ " + expression + " }}") == text


def test_blocks_and_targets_are_as_ever():
    source = (
        "{% set a, b = (1, 2) %}{% for k, v in {'x': [a, b]}.items() %}{{ k }}={{ v[0] }}{{ v[1] }}{% endfor %}"
        "{% filter upper %}a{{ b }}{% endfilter %}{% set c %}x{{ a }}{% endset %}{{ c }}"
        "{% macro f(x, y=[1]) %}({{ x }}{{ y[0] }}{{ caller() }}){% endmacro %}{% call f('z') %}!{% endcall %}"
    )
    assert render(source) == "x=12A2x1(z1!)"


def test_an_infinite_constant_is_the_templates_own_fault():
    with pytest.raises(ChatTemplateError, match="'inf' is not defined"):
        render("{{ 1e999 | int }}")


def test_values_are_weighed_by_what_they_would_be_in_print():
    one, item = ["a" * 100], template_bounds._ITEM
    assert weigh("abc") == 3
    assert weigh([one, one]) == 2 * (100 + item) + 2 * item
    assert weigh({"ab": (1, 2)}) == 2 + item + 2 * item
    assert weigh([1, [1]], indent=3) == 2 * (item + 3) + item + 6
    assert weigh("a" * MOST_CHARACTERS) == MOST_CHARACTERS
    with pytest.raises(TemplateBound):
        weigh("a" * (MOST_CHARACTERS + 1))


def test_the_time_counts_between_operations_too(monkeypatch):
    monkeypatch.setattr(template_bounds, "MOST_SECONDS", 0.0)
    effort = Effort()
    time.sleep(0.001)
    with pytest.raises(TemplateBound, match="took more than 0 seconds"):
        effort.check_time()
