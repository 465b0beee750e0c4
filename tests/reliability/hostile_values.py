"""Values that a file may say where it should not: numbers at the ends of their types, texts and JSON of other kinds,
chat templates that reach out or never end."""

import math
from typing import Any

BOUNDS = [0, 1, 2, 7, 31, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**62, 2**63 - 1]
EDGES = [*BOUNDS, 2**63, 2**64 - 1]
VALUES: list[Any] = [
    *BOUNDS,
    *(-bound for bound in BOUNDS[1:]),
    *(2**64, 10**30, 0.5, -0.0, 1e-320, 1e308, math.nan, math.inf, -math.inf),
    *(True, False, None, "", "a", "\0", "\ud800", "\u2028", "x" * 5000, "../../x", "/etc/passwd", "Ġ", "<|im_end|>"),
    *([], {}, [[]], [{}], [0] * 50, ["a"] * 3, {"type": "ByteLevel"}, {"a": {"b": {}}}),
]
TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch canary') }}",
    "{{ lipsum.__globals__['os'].popen('touch canary').read() }}",
    "{{ 9 ** (9 ** 9) }}",
    "{% set x = 9 ** (9 ** (8 + messages | length)) %}{{ x }}",
    "{{ 'a' * 10 ** 10 }}",
    "{{ messages[0].content * 400000000 }}",
    "{{ 'a' | center(900000000) }}",
    "{{ '%0900000000d' | format(1) }}",
    "{{ '%0900000000d' % 1 }}",
    "{{ '{:900000000}'.format(1) }}",
    "{{ 'a'.ljust(900000000) }}",
    "{{ [messages] * 200000000 }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{{ i * j }}{% endfor %}{% endfor %}",
    "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
    "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
    "{% set x = 'a' * 100000 %}{{ x.replace('a', x) }}",
    "{% set x = 'a' * 100000 %}{{ x | replace('a', x) }}",
    "{% set x = 'a' * 100000 %}{{ x | list | join(x) }}",
    "{% set x = '\\n' * 100000 %}{{ x | indent(100000, true, true) }}",
    "{{ [1, [2, [3]]] | tojson(indent=900000000) }}",
    "{{ 1.5 | round(900000000, 'ceil') }}",
    "{{ lipsum(n=99999, min=99999, max=999999) }}",
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{{ " + "-" * 20000 + "1 }}",
    "{{ " + "not " * 20000 + "1 }}",
    "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
    "{{ " + " ~ ".join("a" * 20000) + " }}",
    "{{ " + "1" * 100000 + " }}",
    "{{ 1e999 | int }}",
    "{{ raise_exception('x' * 100000) }}",
    "{{ messages[0].content }}\ud800",
    "{% for m in messages %}{{ m.content }}{{ '\\ud800' }}{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{% generation %}{% generation %}",
    "{{ x.y.z }}",
    "\0" * 100,
    "{#" * 1000,
]
