"""The house rules of the design, read off the syntax trees of app/ and model/.

Each rule is a function from a source tree to what breaks it. It runs twice: over this repository, where it must find
nothing, and over a small tree made to break it, where it must find just that.
"""

import ast
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Module:
    name: str  # dotted
    path: str  # relative to the root, with slashes
    text: str

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(ast.parse(self.text)))

    @cached_property
    def imports(self) -> set[str]:
        """Everything it imports, wherever the import stands; of `from a import b` both a and a.b."""
        found: set[str] = set()
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                package = self.name.split(".")[: -node.level] if node.level else []
                base = ".".join([*package, *([node.module] if node.module else [])])
                found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        return found

    @property
    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        return (node for node in self.nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


Tree = list[Module]


def read_tree(root: Path) -> Tree:
    tree = []
    for path in sorted([*root.glob("app/**/*.py"), *root.glob("model/**/*.py")]):
        relative = path.relative_to(root)
        name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        tree.append(Module(name, relative.as_posix(), path.read_text(encoding="utf-8")))
    return tree


def is_under(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


# ── who may import what ──

# Who is meant, and what of this project it may import. The first row that fits a module holds.
ROOMS = (
    ("app.bench", ("app.bench",)),
    ("app.engine", ("app.engine", "model.batch")),
    ("app.api", ("app.api", "app.engine", "app.version", "model.batch")),
    ("model", ("model",)),
)
# Who alone may import a library.
LIBRARIES = {
    ("fastapi", "starlette", "limits"): ("app.api",),
    ("llguidance",): ("app.engine.grammars.constraints", "app.engine.grammars.lark", "app.engine.grammars.trial"),
    ("uvicorn",): ("app.server", "app.bounded_http"),
    ("torch",): ("model.torch_backend", "model.formats.minimind"),
    ("ctypes",): ("model.native",),
    ("hatchling", "packaging"): ("model.native.build_hook",),
    ("numpy",): ("model", "app.bench"),
    ("gguf", "safetensors", "tokenizers", "jinja2"): ("model",),
    ("pydantic",): ("app.api", "app.bench", "app.settings", "app.option_values", "app.key_file", "app.arguments"),
    ("rich",): ("app.bench", "app.show"),
    ("plotly",): ("app.bench",),
    ("pydantic_settings",): ("app.settings", "app.option_values"),
    ("transformers",): (),
}
LAZY_IMPORTS = ("app/cli.py", "model/backends.py", "model/load.py")


def each_room_imports_only_what_it_may(tree: Tree) -> Iterator[str]:
    for module in tree:
        allowed = next((allowed for room, allowed in ROOMS if is_under(module.name, room)), ("app", "model"))
        ours = {name for name in module.imports & names_of(tree) if "." in name}
        yield from (f"{module.path} imports {name}" for name in ours if not is_under(name, *allowed))


def libraries_stay_in_their_rooms(tree: Tree) -> Iterator[str]:
    for module in tree:
        for libraries, rooms in LIBRARIES.items():
            used = {name for name in libraries for imported in module.imports if is_under(imported, name)}
            if not is_under(module.name, *rooms):
                yield from (f"{module.path} imports {name}" for name in used)


def imports_stand_at_the_top(tree: Tree) -> Iterator[str]:
    for module in tree:
        inside = (node for function in module.functions for node in ast.walk(function))
        if module.path not in LAZY_IMPORTS:
            yield from (f"{module.path}:{n.lineno}" for n in inside if isinstance(n, ast.Import | ast.ImportFrom))


def imports_have_no_cycles(tree: Tree) -> Iterator[str]:
    """Imports inside functions count, too. Removes, again and again, what imports nothing that is left."""
    edges = {module.name: module.imports & names_of(tree) - {module.name} for module in tree}
    while leaves := {name for name, imported in edges.items() if not imported & edges.keys()}:
        edges = {name: imported for name, imported in edges.items() if name not in leaves}
    if edges:
        yield f"a cycle among {', '.join(sorted(edges))}"


def names_of(tree: Tree) -> set[str]:
    return {module.name for module in tree}


# ── what no module does ──

CONSTANT_TYPES = {
    *("bytes", "float", "frozenset", "int", "range", "str", "tuple"),
    *("Path", "finfo", "get_args", "uint64"),
    *("APIRouter", "MappingProxyType", "Struct", "TypeVar", "compile", "dtype", "getLogger"),
}
LIMIT_OF_A_FILE, LIMIT_OF_A_FUNCTION = 250, 50


def typing_has_no_imports_of_its_own(tree: Tree) -> Iterator[str]:
    for module in tree:
        names = (getattr(node, "id", getattr(node, "attr", "")) for node in module.nodes)
        yield from (module.path for name in names if name == "TYPE_CHECKING")


def nothing_is_global(tree: Tree) -> Iterator[str]:
    for module in tree:
        yield from (f"{module.path}:{node.lineno}" for node in module.nodes if isinstance(node, ast.Global))


def importing_builds_only_constants(tree: Tree) -> Iterator[str]:
    """No singletons and no work at import: a module's own statements define things, and call nothing but what makes a
    constant: a frozen dataclass, a pattern, a logger, a router."""
    allowed = CONSTANT_TYPES | {node.name for module in tree for node in module.nodes if is_frozen_dataclass(node)}
    for module in tree:
        for statement in ast.parse(module.text).body:
            if isinstance(statement, ast.For | ast.While | ast.With | ast.Try):
                yield f"{module.path}:{statement.lineno} works at import"
            elif isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign):
                if statement.value and ast.unparse(statement.value) in ("{}", "[]"):
                    yield f"{module.path}:{statement.lineno} makes a container that waits to be filled"
                yield from (f"{module.path}:{statement.lineno} {built}" for built in built_by(statement, allowed))


def is_frozen_dataclass(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any("frozen=True" in ast.unparse(item) for item in node.decorator_list)


def built_by(node: ast.AST, allowed: set[str]) -> Iterator[str]:
    """The calls of a statement that are not allowed; those in a lambda's body or a type alias do not count."""
    if isinstance(node, ast.Lambda) or (isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Annotated"):
        return
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        of_literal = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Constant)
        if name not in allowed and not of_literal:
            yield f"calls {name}"
    for child in ast.iter_child_nodes(node):
        yield from built_by(child, allowed)


def only_the_engine_catches_everything(tree: Tree) -> Iterator[str]:
    for module in tree:
        caught = [node for node in module.nodes if isinstance(node, ast.ExceptHandler) and is_broad(node.type)]
        caught += [node for node in module.nodes if is_suppress(node) and any(is_broad(kind) for kind in node.args)]
        allowed = 1 if module.path == "app/engine/engine.py" else 0
        yield from (f"{module.path}:{node.lineno}" for node in caught[allowed:])


def is_broad(kind: ast.expr | None) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(one is None or ast.unparse(one).split(".")[-1] in ("Exception", "BaseException") for one in kinds)


def is_suppress(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "suppress"


def files_and_functions_are_short(tree: Tree) -> Iterator[str]:
    for module in tree:
        if (lines := len(module.text.splitlines())) > LIMIT_OF_A_FILE:
            yield f"{module.path} has {lines} lines"
        for function in module.functions:
            if length(function) > LIMIT_OF_A_FUNCTION:
                yield f"{module.path}:{function.lineno} {function.name} has {length(function)} lines"


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def names_say_what_a_thing_is(tree: Tree) -> Iterator[str]:
    for module in tree:
        if module.name.split(".")[-1] in ("utils", "common", "misc", "helpers"):
            yield module.path
        classes = (node.name for node in module.nodes if isinstance(node, ast.ClassDef))
        yield from (f"{module.path} {name}" for name in classes if name.endswith(("Manager", "Handler", "Helper")))


RULES: dict[Callable[[Tree], Iterator[str]], dict[str, str]] = {
    # rule → files that break it, one of them in each line
    each_room_imports_only_what_it_may: {
        "app/engine/breaks.py": "from model import config\n",
        "app/api/breaks.py": "from model.config import X\n",
        "app/bench/breaks.py": "import app.engine.slots\n",
        "model/breaks.py": "def f():\n    from app.engine import slots\n",
    },
    libraries_stay_in_their_rooms: {
        "app/main.py": "from fastapi import FastAPI\n",
        "app/engine/breaks.py": "import numpy as np\n",
        "app/api/breaks.py": "import torch.nn\n",
        "model/load.py": "def f():\n    import torch\n",
        "model/native/breaks.py": "import torch\n",
        "model/memory.py": "import ctypes\n",
        "model/tokenizer.py": "from transformers import AutoTokenizer\n",
    },
    imports_stand_at_the_top: {"app/engine/breaks.py": "def f():\n    def g():\n        import json\n"},
    imports_have_no_cycles: {"app/engine/slots.py": "def f():\n    from .scheduler import x\n"},
    typing_has_no_imports_of_its_own: {
        "app/engine/breaks.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import json\n",
        "model/breaks.py": "import typing\nif typing.TYPE_CHECKING:\n    import json\n",
    },
    nothing_is_global: {"model/breaks.py": "def f():\n    global x\n    x = 1\n"},
    importing_builds_only_constants: {
        "model/breaks.py": "import threading\nLOCK = threading.Lock()\n",
        "app/engine/breaks.py": "CACHE: dict[str, int] = {}\n",
        "app/engine/works.py": "print('imported')\n",
        "app/api/breaks.py": "TABLE = [open(name) for name in ('a',)]\n",
        "app/main.py": "for _ in range(3):\n    pass\n",
    },
    only_the_engine_catches_everything: {
        "app/engine/engine.py": "try:\n    f()\nexcept Exception:\n    pass\n" * 2,
        "app/main.py": "try:\n    pass\nexcept (OSError, Exception):\n    pass\n",
        "model/load.py": "try:\n    pass\nexcept:\n    pass\n",
        "model/breaks.py": "import contextlib\nwith contextlib.suppress(Exception):\n    pass\n",
    },
    files_and_functions_are_short: {
        "model/breaks.py": "x = 1\n" * 251,
        "app/engine/breaks.py": "def f():\n" + "    x = 1\n" * 50,
    },
    names_say_what_a_thing_is: {"app/engine/utils.py": "x = 1\n", "model/breaks.py": "class SlotManager:\n    pass\n"},
}
SOUND = {
    "app/__init__.py": "",
    "app/cli.py": "def serve():\n    from app.main import run\n",
    "app/main.py": "from app.api import routes\nfrom model import config\n",
    "app/server.py": "import uvicorn\n",
    "app/api/routes.py": "from fastapi import APIRouter\nfrom app.engine.scheduler import x\nrouter = APIRouter()\n",
    "app/engine/slots.py": "from model.batch import X\nLIMITS = X(1)\nWORDS = 'a b'.split()\n",
    "app/engine/scheduler.py": "import app.engine.slots\nx = frozenset({1})\n",
    "app/engine/engine.py": "def f():\n    try:\n        pass\n    except Exception:\n        pass\n",
    "model/batch.py": "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass X:\n    a: int\n",
    "model/config.py": "import numpy\nclass X:\n    pass\n",
    "model/backends.py": "def f():\n    from model.native import library\n",
    "model/native/library.py": "import ctypes\nimport numpy\n",
    "model/torch_backend/runner.py": "import torch\nfrom model.batch import X\n",
}


def write_tree(root: Path, files: dict[str, str]) -> Tree:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return read_tree(root)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_this_repository_keeps_the_rule(rule):
    assert sorted(set(rule(read_tree(ROOT)))) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_sound_tree_passes(rule, tmp_path):
    assert list(rule(write_tree(tmp_path, SOUND))) == []


@pytest.mark.parametrize(
    ("rule", "path"),
    [(rule, path) for rule, files in RULES.items() for path in files],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_a_breach_is_found(rule, path, tmp_path):
    broken = set(rule(write_tree(tmp_path, SOUND | {path: RULES[rule][path]})))

    assert len(broken) == 1, broken
    assert path in min(broken) or path.removesuffix(".py").replace("/", ".") in min(broken)


def test_most_functions_are_a_few_lines():
    lengths = sorted(length(function) for module in read_tree(ROOT) for function in module.functions)

    assert statistics.median(lengths) <= 10
    assert lengths[len(lengths) * 9 // 10] <= 25
