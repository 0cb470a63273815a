"""Writes the parts of the documentation that come from the code: config keys, methods and commands.

`docs/conf.py` calls `write` before a build, and pages of docs/ include what it wrote. To look at the files
themselves: `python docs/generate.py`.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

# All that the reference is generated from.
from pipeline.cli.commands import cli  # noqa: E402
from pipeline.config.config import Config  # noqa: E402
from pipeline.config.input import Strict  # noqa: E402
from pipeline.planning.method_guide import GUIDE, describe_method  # noqa: E402
from transforms.methods import METHODS  # noqa: E402

#: What a value of any of these types may be is a single value.
_SCALAR = {"boolean", "integer", "number", "string"}
_NAMES = {
    "string": ("text", "text"),
    "integer": ("a whole number", "whole numbers"),
    "number": ("a number", "numbers"),
    "boolean": ("`true` or `false`", "`true` or `false`"),
}
#: Lets a page put its own sections between the guide and the methods.
_END_OF_GUIDE = "<!-- end of the guide -->"
#: Begins a part of a docstring that is no paragraph.
_PART = re.compile(r"(Args|Raises|Cost|Reference|Source):(.*)", re.DOTALL)


def write(folder: Path = HERE / "_generated") -> None:
    """Writes all parts; a file whose text stays is left alone, so that Sphinx builds only what changed."""
    folder.mkdir(exist_ok=True)
    for name, text in (("config", config_keys()), ("methods", methods()), ("commands", commands())):
        file = folder / f"{name}.md"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def config_keys() -> str:
    """Every key of a config, block by block."""
    schema = config_schema()
    return "\n".join(_block("", schema, dict(_places(schema)))) + "\n"


def config_schema() -> dict[str, Any]:
    """The JSON schema of a config, with the strings below its keys as their descriptions.

    pydantic can read these strings itself (`use_attribute_docstrings`), but does so whenever the models are
    imported: a tenth of the time that loading a config takes.
    """
    schema = Config.model_json_schema()
    blocks = {block.__name__: block for block in _subclasses(Strict)}
    for name, part in (("Config", schema), *schema["$defs"].items()):
        for key, text in _strings_below(blocks[name]).items():
            if key in part["properties"]:
                part["properties"][key].setdefault("description", text)
    return schema


def _subclasses(model: type) -> Iterator[type]:
    below: type
    for below in model.__subclasses__():
        yield below
        yield from _subclasses(below)


def _strings_below(model: type) -> dict[str, str]:
    """The string below each annotated name of a class and of the classes it is derived from."""
    texts: dict[str, str] = {}
    for each in reversed(model.__mro__[: model.__mro__.index(Strict)]):
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(body, ast.ClassDef)
        for key, text in pairwise(body.body):
            match key, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    texts[name] = inspect.cleandoc(said)
    return texts


def _places(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each block's name in the schema, and the key under which it stands in a config."""

    def visit(part: Any, key: str) -> Iterator[tuple[str, str]]:
        if isinstance(part, list):
            for item in part:
                yield from visit(item, key)
        elif isinstance(part, dict):
            if "$ref" in part:
                name = part["$ref"].rpartition("/")[2]
                yield name, key
                yield from below(schema["$defs"][name], key)
            for inner in ("anyOf", "items", "additionalProperties"):
                yield from visit(part.get(inner), key)

    def below(block: Mapping[str, Any], key: str) -> Iterator[tuple[str, str]]:
        for name, part in block["properties"].items():
            yield from visit(part, f"{key}.{name}".lstrip("."))

    yield from below(schema, "")


def _block(key: str, schema: Mapping[str, Any], places: Mapping[str, str], depth: int = 3) -> Iterator[str]:
    """A block's keys as a list of definitions, and the blocks below it."""
    below = [name for name, place in places.items() if place.rpartition(".")[0] == key]
    block = schema if not key else schema["$defs"][next(n for n, place in places.items() if place == key)]
    for name, part in block["properties"].items():
        shown = f"{key}.{name}".lstrip(".")
        needed = "required" if name in block.get("required", ()) else _default(part)
        facts = " · ".join(fact for fact in (_type(part, places), needed) if fact)
        yield f"`{shown}`{{#{_anchor(shown)}}} · {facts}"
        yield f": {_markdown(part['description'])}"
        yield ""
    for name in below:
        inner = places[name]
        yield f"({_anchor(inner)}-block)="
        yield f"{'#' * min(depth, 4)} `{inner}`"
        yield ""
        said = schema["$defs"][name]["description"]
        yield "" if said == f"The `{inner}` block." else _markdown(said)
        yield ""
        yield from _block(inner, schema, places, depth + 1)


def _anchor(key: str) -> str:
    return f"config-{key.replace('.', '-').replace('_', '-')}"


def _default(part: Mapping[str, Any]) -> str:
    value = part.get("default")
    if value is None or isinstance(value, Mapping) or value == []:
        return ""
    return f"default `{str(value).lower() if isinstance(value, bool) else value}`"


def _type(part: Mapping[str, Any], places: Mapping[str, str], plural: bool = False) -> str:
    """What a key may be, in words; `plural`: several of it."""
    if "$ref" in part:
        key = places[part["$ref"].rpartition("/")[2]]
        return f"[{'blocks' if plural else 'a block'}](#{_anchor(key)}-block)"
    if "anyOf" in part:
        options = [option for option in part["anyOf"] if option.get("type") != "null"]
        if {option.get("type") for option in options} >= _SCALAR:
            rest = [option for option in options if option.get("type") not in _SCALAR]
            single = "single values" if plural else "a single value"
            return " or ".join([single, *(_type(option, places, plural) for option in rest)])
        return " or ".join(_type(option, places, plural) for option in options)
    if "const" in part:
        return f"`{part['const']}`"
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    kind = part.get("type")
    if kind == "array":
        return f"{'lists' if plural else 'a list'} of {_type(part['items'], places, plural=True)}"
    if kind == "object":
        return f"a mapping of names to {_type(part['additionalProperties'], places, plural=True)}"
    one, several = _NAMES.get(str(kind), ("a name or a block", ""))
    return (several if plural else one) + _range(part)


def _range(part: Mapping[str, Any]) -> str:
    low, high = part.get("minimum"), part.get("maximum")
    if low is not None and high is not None:
        return f" from {low:,} to {high:,}"
    return f" from {low:,}" if low is not None else ""


def methods() -> str:
    """The guide, and every method with its keys, cost and formula."""
    lines = ["## Which method", ""]
    for question, group in groupby(GUIDE, key=lambda advice: advice.question):
        lines += [f"**{question} …**", ""]
        for advice in group:
            names = ", ".join(f"[`{name}`](#method-{name.replace('_', '-')})" for name in advice.methods)
            lines += [f"{advice.case}", f": {names}: {_markdown(advice.because)}.", ""]
    lines.append(_END_OF_GUIDE)
    for name, method in METHODS.items():
        lines += ["", *_method(name, describe_method(method))]
    return "\n".join(lines)


def _method(name: str, told: Mapping[str, Any]) -> Iterator[str]:
    paragraphs, keys, parts = docstring(told["documentation"])
    yield f"(method-{name.replace('_', '-')})="
    yield f"### `{name}`"
    yield ""
    yield from (f"{_markdown(paragraph)}\n" for paragraph in paragraphs)
    said = dict(parts)
    cost = f"{told['cost']} by default; {said.pop('Cost')}" if "Cost" in said else told["cost"]
    facts = {"Choose it for": told["when"], "Needs": told["needs"], "Sum": told["sums"], "Cost": cost, **said}
    for title, text in facts.items():
        yield f"{title}\n: {_markdown(text)}\n"
    for key, default in told["keys"].items():
        shown = "none" if default is None else str(default).lower() if isinstance(default, bool) else default
        kind = f"{_markdown(told['allowed'][key])} · default `{shown}`"
        yield f"`{key}`{{#method-{name.replace('_', '-')}-{key.replace('_', '-')}}} · {kind}"
        yield f": {_markdown(keys[key])}\n"


def docstring(text: str) -> tuple[list[str], dict[str, str], list[tuple[str, str]]]:
    """A docstring in Google's style, taken apart.

    Returns:
      Its paragraphs, its `Args` by name, and its other parts but `Raises`, each with its title.
    """
    paragraphs: list[str] = []
    keys: dict[str, str] = {}
    parts: list[tuple[str, str]] = []
    for chunk in text.split("\n\n"):
        for piece in re.split(r"\n(?=(?:Args|Raises|Cost|Reference|Source):)", chunk):
            found = _PART.fullmatch(piece)
            if found is None:
                paragraphs.append(piece)
            elif found[1] == "Args":
                items = re.split(r"\n  (?=\w+: )", found[2])
                keys |= {name: said for name, _, said in (item.partition(": ") for item in items[1:])}
            elif found[1] != "Raises":
                parts.append((found[1], found[2].strip()))
    return paragraphs, keys, parts


def commands() -> str:
    """Every verb of the command line with its options."""
    lines: list[str] = []
    seen: dict[str, list[tuple[str, str]]] = {}
    for name, command in cli.commands.items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        words = [f"[{p.name.upper()}]" if not p.required else str(p.name).upper() for p in arguments]
        text = inspect.cleandoc(command.help or "")
        lines += [f"(command-{name})=", f"### `attribeam {name}`", ""]
        lines += [f"```text\nattribeam {' '.join([name, *words])} [OPTIONS]\n```", ""]
        lines += [_markdown(paragraph) + "\n" for paragraph in text.split("\n\n")]
        options = [p for p in command.params if p.param_type_name == "option"]
        spelt = [(_spelt(option), str(option.help)) for option in options]
        if spelt in seen.values():
            other = next(name for name, known in seen.items() if known == spelt)
            lines += [f"It takes the options of [`{other}`](#command-{other}).", ""]
        else:
            lines += [line for option, said in spelt for line in (f"`{option}`", f": {_markdown(said)}", "")]
        seen[name] = spelt
    return "\n".join(lines)


def _spelt(option: Any) -> str:
    return " ".join([*option.opts[:1], *([] if option.is_flag else [option.metavar or ""])]).strip()


def _markdown(text: str) -> str:
    """Plain text with code in backticks, flags and addresses, as one line of Markdown."""
    special = r"(`[^`]*`|https?://[^\s,;)]+[^\s,;).]|--[a-z][\w-]*(?:=[\w…]+)?)"
    pieces: Sequence[str] = re.split(special, " ".join(text.split()))
    return "".join(_piece(piece) for piece in pieces)


def _piece(piece: str) -> str:
    if piece.startswith("`"):
        return piece
    if piece.startswith("--"):
        return f"`{piece}`"
    if piece.startswith("http"):
        return f"<{piece}>"
    return re.sub(r"([\\*_<>\[\]])", r"\\\1", piece)


if __name__ == "__main__":
    write()
