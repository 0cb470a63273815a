"""Reads YAML for configs: scalars of version 1.2, no repeated keys, errors with line and column."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import yaml

from transforms.errors import UserError
from transforms.storage import files
from transforms.wording import close, meant

_TAG = "tag:yaml.org,2002:"
_TEXT, _MERGE = f"{_TAG}str", f"{_TAG}merge"
#: Tags that a config may have. It needs no dates, sets or bytes, and Python's tags would run code.
_TAGS = tuple(_TAG + kind for kind in ("str", "null", "bool", "int", "float", "seq", "map", "merge"))
_HALF = re.compile("[\ud800-\udfff]")
_NODES = {"seq": yaml.SequenceNode, "map": yaml.MappingNode}


@dataclass(frozen=True)
class YamlLimits:
    """Limits beyond which a document is not a config; the defaults are those of every command.

    Args:
      bytes: Bytes of a document: four million take seconds to read.
      values: Values of a document with its aliases expanded: a few lines of nested aliases can stand for more
        than fits in memory. A config of ten thousand files and features needs a tenth of the limit.
      depth: Levels of lists and mappings.
      digits: Digits of a whole number.
    """

    bytes: int = 4 << 20
    values: int = 1_000_000
    depth: int = 50
    digits: int = 40

    @property
    def size(self) -> str:
        """The bytes in words."""
        return f"{self.bytes >> 20} MB" if self.bytes >= 1 << 20 else f"{self.bytes} bytes"


SHIPPED = YamlLimits()


def check_nodes(root: yaml.Node, limits: YamlLimits = SHIPPED) -> None:
    """Refuses a document that its aliases make endless, too large or too deep, before values are made of it.

    Args:
      root: The document's nodes; an alias is the node that it stands for.
      limits: The largest number of values and levels.
    Raises:
      MarkedYAMLError: The document breaks a limit.
    """
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        known = sizes.get(id(node))
        if known is not None and known < 0:
            problem = "an alias lies within what it stands for"
        elif depth > limits.depth:
            problem = f"nested more than {limits.depth} deep"
        elif known is not None:
            return known
        else:
            sizes[id(node)] = -1
            items = node.value
            if isinstance(node, yaml.MappingNode):
                items = [item for pair in items for item in pair]
            total = 1 + sum(size(item, depth + 1) for item in items)
            if total <= limits.values:
                sizes[id(node)] = total
                return total
            problem = f"its aliases stand for more than {limits.values:,} values"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)

    size(root, 0)


class _Loader(yaml.SafeLoader):
    """A SafeLoader with the core schema of YAML 1.2, https://yaml.org/spec/1.2.2/#103-core-schema.

    YAML 1.1, which PyYAML reads, takes `1e-3` for a string, `no` for false, `1:30` for 90 and `2026-11-21`
    for a date. It also silently takes the last of two equal keys; here that is an error. Keys are
    names, for example of columns: `2020: 1` has the key "2020".
    """

    limits: YamlLimits
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            check_nodes(node, self.limits)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _TAGS:
            problem = f"the tag {node.tag.removeprefix(_TAG)!r} is not allowed in a config"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        kind = _NODES.get(node.tag.removeprefix(_TAG), yaml.ScalarNode)
        if not isinstance(node, kind):
            problem = (
                f"{type(node).__name__.removesuffix('Node').lower()} is not a {node.tag.removeprefix(_TAG)}"
            )
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        try:
            return super().construct_object(node, deep=deep)
        except (KeyError, IndexError, ValueError) as error:
            problem = f"{node.value!r:.60} is not a {node.tag.removeprefix(_TAG)}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text = super().construct_scalar(node)
        if isinstance(text, str) and _HALF.search(text):
            problem = "holds half of a surrogate pair, which is not a character"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for index, (key_node, value_node) in enumerate(node.value):
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key_node.start_mark)
            if key_node.tag != _MERGE:
                # A new node, because an anchored one may also be a value elsewhere.
                key = yaml.ScalarNode(_TEXT, key_node.value, key_node.start_mark, key_node.end_mark)
                node.value[index] = (key, value_node)
            if key_node.value in seen:
                problem = f"the key {key_node.value!r} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        """Reads a decimal number, whatever its first digit; `0o` and `0x` mark other bases."""
        text = str(self.construct_scalar(node))
        if len(text) > self.limits.digits:
            problem = f"a number of {len(text):,} digits"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_Loader.add_constructor(f"{_TAG}int", _Loader.construct_whole_number)
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _tag, re.compile(f"^(?:{_pattern})$"), _first)


def read_mapping(path: str, limits: YamlLimits = SHIPPED) -> dict[str, Any]:
    """Reads the keys and values of a YAML file.

    Args:
      path: A local file or a Beam filesystem URL.
      limits: Limits of the document; a larger file is not read.
    Raises:
      UserError: The file is missing, or is not a YAML mapping within the limits.
    """
    if not files.exists(path):
        folder, name = os.path.split(path)
        near = [files.join(folder, other) for other in close(name, files.list_dir(folder or "."), most=1)]
        remedy = meant(near[:1], "check the path")
        raise UserError("there is no such config", path, remedy)
    if not files.is_dir(path) and files.size(path) > limits.bytes:
        raise UserError(f"is larger than {limits.size}", path, "name a YAML config")
    try:
        text = files.read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", path, "name a YAML config") from error
    return parse_mapping(text, path, limits)


def parse_mapping(text: str, where: str, limits: YamlLimits = SHIPPED) -> dict[str, Any]:
    """Parses a YAML document of keys and values.

    Args:
      text: The document.
      where: The document's name in errors.
      limits: Limits of the document.
    Raises:
      UserError: The text is not YAML or not a mapping; the error gives line and column if they are known.
    """
    data = parse_value(text, where, limits)
    if not isinstance(data, dict):
        problem = "is empty" if data is None else "is not a config"
        raise UserError(problem, where, "a config has the keys model, input, method and output")
    return data


def parse_value(text: str, where: str, limits: YamlLimits = SHIPPED) -> Any:
    """Parses a YAML document of any kind; see `parse_mapping`."""
    if len(text) > limits.bytes:
        raise UserError(f"is longer than {limits.size}", where, "name a YAML config")
    try:
        loader = _Loader(text)
        loader.limits = limits
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        remedy = "indent with spaces" if "'\\t'" in reason else None
        if mark and (error.problem == "mapping values are not allowed here" or reason.endswith("got ':'")):
            remedy = _about_colons(text.splitlines()[mark.line])
        raise UserError(f"not valid YAML: {reason}", place, remedy) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"not valid YAML: holds the character {chr(error.character)!r}", f"{where}:{line}"
        ) from error
    except RecursionError as error:
        raise UserError(f"not valid YAML: nested more than {limits.depth} deep", where) from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"not valid YAML: {str(error).splitlines()[0]}", where) from error


#: A function in place of a path: YAML takes the first colon of `python: module:function` as a key's.
_FUNCTION = re.compile(r"path:\s*(python:\s*[^\s,}#]+)")


def _about_colons(line: str) -> str:
    """The remedy for a value that holds a colon and a space."""
    if match := _FUNCTION.search(line):
        return f'write {match[1]} as a separate key instead of path, or in quotes: path: "{match[1]}"'
    return "put a value that holds a colon and a space in quotes"


def override(data: dict[str, Any], setting: str) -> None:
    """Applies a `--set a.b=value` to a parsed config.

    Args:
      data: The config, changed in place.
      setting: The value is YAML; a number in the path is an item of a list, from 0.
    Raises:
      UserError: The setting has another form, or its path leads through a value without keys.
    """
    where = f"--set {setting}"
    path, sign, text = setting.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not sign or not all(keys):
        raise UserError("is not of the form key=value", where, "for example --set method.n_steps=100")
    value = parse_value(text, where)
    block: Any = data
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(block, list):
            if not key.isdecimal() or int(key) >= len(block):
                problem = (
                    f"{'.'.join(keys[:depth])} is a list of {len(block)}, and {key!r} is not one of its items"
                )
                raise UserError(problem, where, "count from 0")
            place: Any = int(key)
        elif isinstance(block, dict):
            place = key
            if block.get(key) is None and not last:
                block[key] = {}
        else:
            raise UserError(f"{'.'.join(keys[:depth])} has no keys of its own", where)
        if last:
            block[place] = value
        else:
            block = block[place]
