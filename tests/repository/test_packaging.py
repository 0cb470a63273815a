"""What is installed is what is there, what is imported is declared, and what is declared is pinned."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCAL = {"benchmarks", "examples", "pipeline", "tests", "transforms"}
# Modules inside a namespace that several distributions share.
INSIDE_NAMESPACES = {"google.protobuf": "protobuf"}
# Distributions of the same module: the second is what tests are run with.
SAME = {"xgboost": "xgboost-cpu"}
CONSTRAINTS = ["constraints.txt", "constraints-3.13.txt"]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The arguments setup.py gives to setuptools."""
    given: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # as pip does
        patch.setattr(setuptools, "setup", given.update)
        runpy.run_path(str(ROOT / "setup.py"), run_name="__main__")
    return given


def pins(name: str) -> dict[str, str]:
    """Name to version, from a file of constraints."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    split = [line.split("==") for line in lines if not line.startswith("#")]
    assert all(len(parts) == 2 for parts in split), "every line is name==version"
    assert [name for name, _ in split] == sorted({name for name, _ in split})
    return {canonicalize_name(name): version for name, version in split}


def constraints_here() -> str:
    """The file that make installs from with the interpreter that runs this test."""
    version = ".".join(map(str, sys.version_info[:2]))
    found = re.search(
        rf"^CONSTRAINTS_{re.escape(version)} := (\S+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE
    )
    assert found is not None
    return found[1]


def requirements(project: dict[str, Any], *extras: str) -> list[Requirement]:
    groups = [project["install_requires"], *(project["extras_require"][extra] for extra in extras)]
    return [Requirement(line) for group in groups for line in group]


def test_both_packages_are_found_whole(project: dict[str, Any]) -> None:
    folders = {
        path.parent for top in ("pipeline", "transforms") for path in (ROOT / top).rglob("__init__.py")
    }
    assert len(folders) > 10
    assert sorted(project["packages"]) == sorted(".".join(path.relative_to(ROOT).parts) for path in folders)


def test_other_folders_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pipeline", "pipeline/inner", "transforms", "benchmarks", "examples", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    for name in ("setup.py", "README.md"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("setup.py", run_name="__main__")
    assert sorted(given["packages"]) == ["pipeline", "pipeline.inner", "transforms"]


@pytest.mark.parametrize("package", ["pipeline", "transforms"])
def test_type_checkers_read_the_annotations(project: dict[str, Any], package: str) -> None:
    """PEP 561: the marker lies in each package and is installed with it."""
    assert (ROOT / package / "py.typed").read_bytes() == b""
    assert "py.typed" in project["package_data"][""]
    assert "Typing :: Typed" in project["classifiers"]


def test_every_data_file_is_installed(project: dict[str, Any]) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "pipeline", "transforms"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    data = [path for path in map(Path, listed.stdout.splitlines()) if path.suffix != ".py"]
    assert len(data) > 2
    for path in data:
        package = next(parent for parent in path.parents if (ROOT / parent / "__init__.py").exists())
        inside = path.relative_to(package)
        assert any(inside.match(pattern) for pattern in project["package_data"][""]), str(path)


def test_the_classifiers_are_what_is_required(project: dict[str, Any]) -> None:
    named = {line.rpartition(" ")[2] for line in project["classifiers"] if "Python ::" in line}
    required = SpecifierSet(project["python_requires"])
    assert named == {f"3.{minor}" for minor in range(30) if f"3.{minor}" in required}


def test_every_module_is_in_a_package() -> None:
    stray = [
        path
        for top in ("pipeline", "transforms")
        for path in (ROOT / top).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    ]
    assert not stray


def test_the_command_is_there(project: dict[str, Any]) -> None:
    assert project["name"] == "attribeam"
    assert project["entry_points"] == {"console_scripts": ["attribeam = pipeline.main:main"]}
    tree = ast.parse((ROOT / "pipeline" / "main.py").read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert "main" in defined | imported


def test_extras(project: dict[str, Any]) -> None:
    assert set(project["extras_require"]) == {"gpu", "gcp", "aws", "trees", "examples", "dev"}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_pins_satisfy_the_ranges(project: dict[str, Any], name: str) -> None:
    pinned = pins(name)
    for requirement in requirements(project, *project["extras_require"]):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} against {version}"


def test_ranges_have_both_ends(project: dict[str, Any]) -> None:
    for requirement in requirements(project, *project["extras_require"]):
        assert {part.operator for part in requirement.specifier} == {">=", "<"}, str(requirement)


def test_whatever_is_installed_is_pinned(project: dict[str, Any]) -> None:
    """Walks the installed requirements: no version is left for the day of the installation to choose."""
    name_of_file = constraints_here()
    pinned = pins(name_of_file)
    waiting = [(need, frozenset(need.extras)) for need in requirements(project, "examples", "dev")]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        need, extras = waiting.pop()
        name = canonicalize_name(need.name)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        assert name in pinned, f"{name} is not in {name_of_file}: make lock"
        for inner in map(Requirement, importlib.metadata.requires(name) or []):
            marker = inner.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
                waiting.append((inner, frozenset(inner.extras)))
    assert len(seen) > len(requirements(project, "examples", "dev"))


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("pipeline", ()),
        ("transforms", ("trees",)),
        ("examples", ("examples",)),
        ("benchmarks", ("examples", "dev")),
        ("tests", ("examples", "dev")),
    ],
)
def test_whatever_is_imported_is_declared(
    project: dict[str, Any], folder: str, extras: tuple[str, ...]
) -> None:
    declared = {canonicalize_name(need.name) for need in requirements(project, *extras)}
    declared |= {SAME[name] for name in declared if name in SAME}
    owners = importlib.metadata.packages_distributions()
    # What made the files in tests/data ran elsewhere, where other tools are.
    paths = [
        path for path in (ROOT / folder).rglob("*.py") if not path.is_relative_to(ROOT / "tests" / "data")
    ]
    known = LOCAL | sys.stdlib_module_names | {path.stem for path in paths if folder == "tests"}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules = [node.module]
            else:
                continue
            for module in modules:
                root = module.partition(".")[0]
                if root in known:
                    continue
                inside = [owner for start, owner in INSIDE_NAMESPACES.items() if module.startswith(start)]
                found = {canonicalize_name(owner) for owner in inside or owners.get(root, [])}
                assert found & declared, (
                    f"{path.relative_to(ROOT)} imports {module}, which setup.py does not name"
                )


def test_the_changelog_has_this_version(project: dict[str, Any]) -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == project["version"]


def test_ci_runs_the_tests_and_the_lint() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert {"make test", "make lint"} <= set(lines)
