"""The rules on who may import whom, how long a module may be, and what the launcher may load."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "transforms")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in MODULES]

LONGEST = 400
ENGINES = {"apache_beam", "keras", "tensorflow"}
RUNNERS = (
    "DirectRunner", "FlinkRunner", "DataflowRunner", "PrismRunner", "PortableRunner", "FnApiRunner",
    "BundleBasedDirectRunner",
)  # fmt: skip

# Where a path starts like this, no import of these packages may stand, not even inside a function.
FORBIDDEN = {
    "transforms/": {"pipeline"},
    "transforms/methods/": {"apache_beam"},
    "transforms/models/": {"apache_beam"},
    "transforms/aggregates/importance": ENGINES,
    "transforms/aggregates/interactions": ENGINES,
    "transforms/statistics": ENGINES,
    "pipeline/audit": ENGINES,
    "pipeline/compare": ENGINES,
    "pipeline/exports": ENGINES,
    "pipeline/report": ENGINES,
    "pipeline/results": ENGINES,
}


# Floors from the ground up: a folder imports of its package only what lies on floors before its own, and the
# entries of one floor do not import each other.
FLOORS = {
    "transforms": (
        "errors, wording, numerics, statistics | storage, arrow | sources, slices, models | rows, methods |"
        " outputs | aggregates | worker | explain | __init__"
    ),
    "transforms.sources": (
        "base, table_formats, unsupported_formats | changed_files, partitions, shards | tfrecord, parquet |"
        " inspection, read | globs"
    ),
    "transforms.rows": (
        "problems, images, encodings, schema | resolve, tensors | unions | decode, padding | baselines"
    ),
    "transforms.models": (
        "tensorflow_errors, players, devices, categories, users_code, forest | reference | capabilities |"
        " base | graphs | kinds | load"
    ),
    "transforms.models.graphs": (
        "trace | affine, constant_integers, rewrites | cut, xla | compiled, tensors | tensor_sizes |"
        " gradients, masked, deeplift | scored | culprits, formulas"
    ),
    "transforms.models.graphs.cut": (
        "entries, frontier, mask_questions, provenance | masks | refusals | cut | remarks"
    ),
    "transforms.models.graphs.deeplift": (
        "ops | plan | slopes, walk | tensor_sizes | loops | rules, scanned_loops | unrolled | model"
    ),
    "transforms.methods": "calls | base | sampling | masking | gradients, trees | contract | __init__",
    "pipeline": (
        "wording | run_directory, runners, function_templates | config, results | planning, report, exports |"
        " execution, compare, audit | verify | terminal | cli | main | __main__, __init__"
    ),
    "pipeline.report": "blocks | data, page | pictures | sections | __init__",
}

#: Files in one folder: more, and a newcomer reads a list rather than a name.
WIDEST = 15


@dataclass(frozen=True)
class Import:
    """One imported module; `scope` is "module", "function" or "typing" (under `if TYPE_CHECKING`)."""

    module: str
    scope: str
    line: int

    @property
    def root(self) -> str:
        return self.module.partition(".")[0]


def imports_of(source: str, package: str) -> Iterator[Import]:
    """Yields every import of a module in `package`, with relative names made absolute."""

    def visit(node: ast.AST, scope: str) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, scope, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(f"{stem}.{alias.name}", scope, node.lineno)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, "typing")
            for child in node.orelse:
                yield from visit(child, scope)
        else:
            inner = "function" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else scope
            for child in ast.iter_child_nodes(node):
                yield from visit(child, inner)

    return visit(ast.parse(source), "module")


def imports_of_file(path: Path) -> list[Import]:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    return list(imports_of(path.read_text(encoding="utf-8"), package))


def strings_and_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields (line, text) of every string and identifier; docstrings and comments may say anything."""
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in prose:
                yield node.lineno, text
            case ast.Name(id=text) | ast.Attribute(attr=text):
                yield node.lineno, text
            case ast.alias(name=text):
                yield node.lineno, text


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_scan_sees_every_kind_of_import() -> None:
    source = """
import a.b, c
from d import e
from . import f
from ..g import h
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import i
else:
    import j
class K:
    import l
    def m(self):
        try:
            from n import o
        except ImportError:
            pass
"""
    seen = {(found.module, found.scope) for found in imports_of(source, "transforms.methods")}
    assert seen == {
        ("a.b", "module"),
        ("c", "module"),
        ("d.e", "module"),
        ("transforms.methods.f", "module"),
        ("transforms.g.h", "module"),
        ("typing.TYPE_CHECKING", "module"),
        ("i", "typing"),
        ("j", "module"),
        ("l", "module"),
        ("n.o", "function"),
    }


def test_the_modules_are_found() -> None:
    assert {"pipeline/main.py", "transforms/__init__.py"} <= set(NAMES)


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_layers(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    forbidden = {root for start, roots in FORBIDDEN.items() if name.startswith(start) for root in roots}
    broken = [found for found in imports_of_file(path) if found.root in forbidden]
    assert not broken, f"{name} must know nothing of {sorted(forbidden)}"


def dotted(path: Path) -> str:
    """The name a module is imported by."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def import_graph() -> dict[str, set[str]]:
    """Module → modules of ours that it imports, also inside functions and under TYPE_CHECKING."""
    ours = {dotted(path): path for path in MODULES}
    graph: dict[str, set[str]] = {}
    for module, path in ours.items():
        named = (found.module for found in imports_of_file(path))
        # `from a.b import c` imports a.b.c where that is a module, and a.b where c is a name in it.
        targets = {name if name in ours else name.rpartition(".")[0] for name in named}
        graph[module] = (targets & set(ours)) - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of two or more nodes that reach each other, each sorted."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting.extend(graph[node])
        reached[start] = seen
    groups = {
        tuple(sorted(other for other in reached[node] if node in reached[other]))
        for node in graph
        if node in reached[node]
    }
    return sorted(list(group) for group in groups)


def member(package: str, module: str) -> str | None:
    """The entry of a package's folder in which a module lies; None where it lies elsewhere."""
    if module == package:
        return "__init__"
    if module.startswith(f"{package}."):
        return module.removeprefix(f"{package}.").partition(".")[0]
    return None


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_no_circle_of_imports() -> None:
    graph = import_graph()
    assert len(graph) > 200, "the scan finds the modules"
    assert circles(graph) == []


@pytest.mark.parametrize("package", FLOORS)
def test_folders_import_from_lower_floors_alone(package: str) -> None:
    floors = [[name.strip() for name in floor.split(",")] for floor in FLOORS[package].split("|")]
    height = {name: number for number, floor in enumerate(floors) for name in floor}
    graph = import_graph()
    entries = {member(package, module) for module in graph} - {None, "__init__"}
    assert entries == set(height) - {"__init__"}, (
        "every folder and file has a floor, and every floor is there"
    )
    above = [
        f"{module} → {target}"
        for module, targets in sorted(graph.items())
        for target in sorted(targets)
        if (here := member(package, module)) and (there := member(package, target)) and here != there
        if height[there] >= height[here]
    ]
    assert not above, "imports that point up, or along a floor"


def test_no_folder_is_a_list() -> None:
    ours = ("pipeline", "transforms", "tests", "benchmarks", "examples")
    files = Counter(path.parent.relative_to(ROOT) for name in ours for path in (ROOT / name).rglob("*.py"))
    assert {str(folder): count for folder, count in files.items() if count > WIDEST} == {}


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_length(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{lines} lines: a module of more than {LONGEST} wants to be two"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_only_the_runners_package_names_a_runner(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = [
        (line, text) for line, text in strings_and_names(tree) if any(runner in text for runner in RUNNERS)
    ]
    package = ROOT / "pipeline" / "runners"
    if path == package / "names.py":
        assert named, "the rule looks for names that the package no longer has"
    elif not path.is_relative_to(package):
        assert not named


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.is_relative_to(ROOT / "transforms")], ids=lambda path: path.stem
)
def test_what_transforms_offers_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
        if not ast.get_docstring(node)
    ]
    assert not bare, f"without a docstring: {bare}"


def test_help_loads_no_engine() -> None:
    done = run_python(
        "import json, runpy, sys\n"
        "sys.argv = ['attribeam', '--help']\n"
        "try:\n"
        "    runpy.run_module('pipeline', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop:\n"
        "    print(json.dumps([stop.code, sorted({name.partition('.')[0] for name in sys.modules})]))\n"
    )
    assert done.returncode == 0, done.stderr
    assert "explain" in done.stdout
    code, loaded = json.loads(done.stdout.splitlines()[-1])
    assert code in (0, None)
    assert not ENGINES & set(loaded)


def test_importing_every_module_loads_no_tensorflow() -> None:
    """Plans are made and results read without TensorFlow; only opening a model imports what needs it."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in MODULES
    ]
    modules = [m for m in modules if not m.startswith("transforms.models.") and not m.endswith("__main__")]
    assert {"pipeline.main", "transforms.methods", "transforms.models"} <= set(modules)
    done = run_python(
        "import importlib, json, sys\n"
        "guilty = []\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        "    if {'tensorflow', 'keras'} & set(sys.modules):\n"
        "        guilty.append(module)\n"
        "        break\n"
        "print(json.dumps(guilty))\n"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize("module", ["pipeline.results.run", "transforms.aggregates.importance"])
def test_reading_results_loads_no_engine(module: str) -> None:
    done = run_python(f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert not ENGINES & set(json.loads(done.stdout))
