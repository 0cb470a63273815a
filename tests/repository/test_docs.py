"""The reference in docs/ is whole: every key, method and option is in it, each with its description."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import click
import pytest

from pipeline.cli.commands import cli
from tests.support.pages import PAGES, ROOT
from transforms.methods import METHODS


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every block of a config by its name, with its keys."""
    yield "Config", schema["properties"]
    for name, block in schema["$defs"].items():
        yield name, block["properties"]


def anchors(page: str) -> dict[str, str]:
    """What is said of each key of a generated page, by its anchor."""
    return dict(re.findall(r"\{#([\w-]+)\}.*\n: (.+)", page))


def test_every_config_key_is_described(generate: ModuleType) -> None:
    said = anchors(generate.config_keys())
    schema = generate.config_schema()
    assert {"Model", "Input", "Feature", "Bins", "Output", "Compute", "Limits"} <= dict(blocks(schema)).keys()
    for block, keys in blocks(schema):
        for key, part in keys.items():
            text = part.get("description", "")
            assert re.fullmatch(r"\S.*\.", text, re.DOTALL), f"{block}.{key}: {text!r} is no description"
    assert len(said) == sum(len(keys) for _, keys in blocks(schema))
    assert {"config-seed", "config-model-allow-unsafe", "config-input-features-fill"} <= said.keys()


def test_every_key_of_a_method_is_described(generate: ModuleType) -> None:
    said = anchors(generate.methods())
    wanted = {
        f"method-{name}-{field.name}".replace("_", "-"): (name, field.name)
        for name, method in METHODS.items()
        for field in dataclasses.fields(method)  # type: ignore[arg-type]
    }
    assert said.keys() == wanted.keys()
    assert len(wanted) > 20
    for name in METHODS:
        assert f"(method-{name.replace('_', '-')})=" in generate.methods()


def test_every_option_is_described(generate: ModuleType) -> None:
    page = generate.commands()
    for name, command in cli.commands.items():
        assert f"### `attribeam {name}`" in page
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{name} {option.name}"
                assert re.search(rf"^`{option.opts[0]}[` ]", page, re.MULTILINE), f"{name} {option.opts[0]}"


def test_a_docstring_is_taken_apart(generate: ModuleType) -> None:
    text = (
        "Explains a row.\n\nφ_i = 1, over\ntwo lines.\n\nArgs:\n  n_steps: Nodes on a path, until `max`\n"
        "    at most: no more.\n  tolerance: Largest error.\nRaises:\n  UserError: Never.\n"
        "Cost: one call;\n  memory O(1).\nReference: Nobody 2026,\nhttps://example.org/1, eq. 1."
    )
    paragraphs, keys, parts = generate.docstring(text)
    assert paragraphs == ["Explains a row.", "φ_i = 1, over\ntwo lines."]
    assert {key: " ".join(said.split()) for key, said in keys.items()} == {
        "n_steps": "Nodes on a path, until `max` at most: no more.",
        "tolerance": "Largest error.",
    }
    assert [title for title, _ in parts] == ["Cost", "Reference"]
    assert "memory O(1)" in parts[0][1]
    assert "eq. 1" in parts[1][1]


def test_what_the_python_page_documents_is_there() -> None:
    """Sphinx would find it too, but only in `make docs`."""
    named = re.findall(r"^\.\. auto\w+:: ([\w.]+)", PAGES["docs/develop/python.md"], re.MULTILINE)
    assert {"pipeline.explain", "pipeline.load_run", "pipeline.Run"} <= set(named)
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__, name


def test_files_that_pages_name_are_there() -> None:
    """A folder or a module that has moved is named by its new path."""
    for page, text in PAGES.items():
        for path in re.findall(
            r"`((?:pipeline|transforms|tests|configs|benchmarks|examples|findings)/[\w/.]*)`", text
        ):
            assert (ROOT / path).exists(), f"{page} names {path}"


def test_the_architecture_has_every_folder() -> None:
    page = PAGES["docs/develop/architecture.md"]
    for package in ("pipeline", "transforms"):
        for folder in (ROOT / package).rglob("__init__.py"):
            name = f"{folder.parent.relative_to(ROOT)}/"
            assert name == f"{package}/" or f"| `{name}` |" in page, name
