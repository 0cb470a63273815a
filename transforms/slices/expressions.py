"""Parsing of conditions over columns, such as `age >= 65`; only whitelisted syntax is accepted.

A condition may contain: names of columns, in backticks if they are not identifiers, with a dot for fields of
structs; numbers, texts, True and False; comparisons, also chained; `and`, `or`, `not`; `in` and `not in` with
lists of constants; `+ - * / %`; `isnull(x)`. Days and times are compared with texts such as `"2013-06-01"`.
Conditions are parsed with Python's `ast` module, but never evaluated as Python code.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as pt

from transforms.arrow.types import storage
from transforms.errors import UserError
from transforms.slices.times import time_constant
from transforms.wording import did_you_mean, names_in_words

KEY = "input.slices"
#: Limits for a condition: its number of characters, and the depth of its tree.
_MOST_CHARACTERS = 2000
_MOST_LEVELS = 50

Constant = bool | int | float | str


@dataclass(frozen=True)
class ColumnRef:
    """The values of a column; `kind` is "number", "truth", "text" or "time"."""

    name: str
    kind: str


@dataclass(frozen=True)
class Literal:
    """A constant."""

    value: Constant


@dataclass(frozen=True)
class OneOf:
    """A test whether a value equals one of several constants."""

    value: Node
    constants: tuple[Constant, ...]


@dataclass(frozen=True)
class Apply:
    """An operator applied to values.

    Args:
      sign: The operator as written in a condition, such as `<=`, `and` or `isnull`.
      values: The operands.
    """

    sign: str
    values: tuple[Node, ...]


Node = ColumnRef | Literal | OneOf | Apply


def columns_of(node: Node) -> tuple[str, ...]:
    """The columns that a condition names, each once."""
    if isinstance(node, ColumnRef):
        return (node.name,)
    parts: Sequence[Node] = ()
    if isinstance(node, OneOf):
        parts = (node.value,)
    elif isinstance(node, Apply):
        parts = node.values
    return tuple(dict.fromkeys(name for part in parts for name in columns_of(part)))


def canonical(node: Node) -> Node:
    """A form that is equal for conditions that differ only in spaces, brackets, quotes or order of lists."""
    if isinstance(node, OneOf):
        return OneOf(canonical(node.value), tuple(sorted(set(node.constants), key=repr)))
    if isinstance(node, Apply):
        return Apply(node.sign, tuple(map(canonical, node.values)))
    return node


def kind_of(stored: pa.DataType) -> str | None:
    """The kind of a column's values: "number", "truth", "text" or "time"; None for lists, structs, etc."""
    dtype = storage(stored)
    if pt.is_boolean(dtype):
        return "truth"
    if pt.is_integer(dtype) or pt.is_floating(dtype) or pt.is_decimal(dtype) or pt.is_null(dtype):
        return "number"
    if pt.is_string(dtype) or pt.is_binary(dtype):
        return "text"
    return "time" if pt.is_temporal(dtype) and not pt.is_interval(dtype) else None


def is_condition(text: str) -> bool:
    """True if a text looks like a condition rather than the name of a column."""
    return bool(re.search(r"[<>=!()\[\]{}\"'`&|~]|\b(and|or|not|in|is)\b", text))


def in_a_line(text: str) -> str:
    """Joins the lines of a condition into a single line."""
    return " ".join(line.strip() for line in re.split(r"[\r\n]+", text)).strip()


def names_in(text: str) -> list[str]:
    """The columns that a condition names; empty if the text cannot be parsed."""
    try:
        tree, source = _tree(text)
    except UserError:
        return []
    names = []
    inner = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner:
            inner |= {id(part) for part in ast.walk(node)}
            name = source.name(node)
            if name is not None:
                names.append(name)
    return [name for name in dict.fromkeys(names) if name != "isnull"]


def parse(
    text: str,
    types: Mapping[str, pa.DataType],
    *,
    characters: int = _MOST_CHARACTERS,
    levels: int = _MOST_LEVELS,
) -> Node:
    """Parses a condition into a tree.

    Args:
      text: The condition as written.
      types: The types of the input's columns.
      characters: Maximum number of characters.
      levels: Maximum depth of the tree.
    Raises:
      UserError: The text is not a condition, names an unknown column, compares values that cannot be
        compared, holds syntax that is not allowed, or exceeds a limit; the message says what and where.
    """
    tree, source = _tree(text, characters)
    node, kind = _Reader(source, types, levels).read(tree.body, 0)
    if kind != "truth":
        raise source.wrong(f"is {_KINDS[kind]}, but a condition is needed", "compare it with something")
    if not columns_of(node):
        raise source.wrong("names no column", "a condition is about columns, such as age >= 65")
    return node


# -- parsing -------------------------------------------------------------------------------------------------

_KINDS = {"number": "a number", "truth": "true or false", "text": "a text", "time": "a day or a time"}
_SIGNS: dict[type[ast.AST], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Mod: "%", ast.And: "and", ast.Or: "or",
}  # fmt: skip
#: Remedies for Python's operators that conditions do not have.
_MEANT: dict[type[ast.AST], str] = {
    ast.BitAnd: "write and", ast.BitOr: "write or", ast.Invert: "write not", ast.Is: "write isnull(…) or ==",
    ast.IsNot: "write not isnull(…) or !=",
}  # fmt: skip
_LIKE = 'write it like age >= 65 and carrier in ["AA", "UA"]'
_ALLOWED = "allowed: names, constants, comparisons, and, or, not, in with a list, + - * / %, isnull(…)"


class _Source:
    """The text of a condition; positions in Python's syntax tree refer to it."""

    def __init__(self, text: str) -> None:
        self.text, self._bytes = text, text.encode()

    def wrong(self, what: str, remedy: str | None = None) -> UserError:
        shown = self.text if len(self.text) <= 200 else f"{self.text[:200]}…"
        return UserError(f"'{shown}' {what}", KEY, remedy)

    def part(self, node: ast.expr) -> str:
        return self._bytes[node.col_offset : node.end_col_offset].decode()

    def name(self, node: ast.expr) -> str | None:
        """The column that a node names; None if the node is not a name."""
        if isinstance(node, ast.Attribute):
            holder = self.name(node.value)
            own = self._bytes[node.value.end_col_offset : node.end_col_offset].decode().strip(" \t.)")
            return None if holder is None else f"{holder}.{own.strip('`')}"
        # Taken from the text, because Python's parser normalises Unicode in names.
        return self.part(node).strip("`") if isinstance(node, ast.Name) else None

    def place(self, offset: int, replaced: str) -> int:
        """Converts a position in `replaced`, the text without backticks, to one in the text, both from 1."""
        before = len(replaced[: max(0, offset - 1)].encode())
        return len(self._bytes[:before].decode("utf-8", "ignore")) + 1


def _tree(text: str, characters: int = _MOST_CHARACTERS) -> tuple[ast.Expression, _Source]:
    source = _Source(in_a_line(text))
    if len(source.text) > characters:
        raise source.wrong(f"has more than {characters:,} characters", "make a column of it")
    replaced = _without_backticks(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python only warns about some mistakes, such as `65and x`
            return ast.parse(replaced, mode="eval"), source
    except SyntaxError as error:
        message = str(error.msg).partition(" (")[0]
        place = source.place(error.offset or len(replaced) + 1, replaced)
        remedy = "write == for equal" if re.search(r"[^<>=!]=(?!=)", replaced) else _LIKE
        raise source.wrong(f"cannot be read at character {place}: {message}", remedy) from error
    except (ValueError, RecursionError, MemoryError, Warning) as error:
        raise source.wrong(f"cannot be read: {error}", _ALLOWED) from error


def _without_backticks(source: _Source) -> str:
    """The text with each name in backticks replaced by a plain name with the same number of bytes."""
    pieces, rest, text = [], 0, source.text
    for match in re.finditer(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`[^`]*`?", text):
        if match[0][0] != "`":
            continue
        if not match[0][1:].endswith("`") or len(match[0]) < 3:
            raise source.wrong(f"cannot be read at character {match.start() + 1}: '`' was never closed")
        pieces += [text[rest : match.start()], "a" * len(match[0].encode())]
        rest = match.end()
    return "".join([*pieces, text[rest:]])


class _Reader:
    """Converts Python's syntax tree to a condition's tree, and determines the kind of each value."""

    def __init__(self, source: _Source, types: Mapping[str, pa.DataType], levels: int) -> None:
        self._source, self._types, self._levels = source, types, levels

    def read(self, node: ast.expr, depth: int) -> tuple[Node, str]:
        if depth > self._levels:
            raise self._source.wrong(f"is more than {self._levels} levels deep", "make a column of it")
        match node:
            case ast.Name() | ast.Attribute():
                return self._column(node)
            case ast.Constant():
                return self._constant(node)
            case ast.BoolOp():
                parts = tuple(self._truth(value, depth) for value in node.values)
                return Apply(_SIGNS[type(node.op)], parts), "truth"
            case ast.UnaryOp(op=ast.Not()):
                return Apply("not", (self._truth(node.operand, depth),)), "truth"
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                return self._signed(node, depth)
            case ast.BinOp() if type(node.op) in _SIGNS:
                parts = tuple(self._number(value, depth) for value in (node.left, node.right))
                return Apply(_SIGNS[type(node.op)], parts), "number"
            case ast.Compare():
                return self._comparison(node, depth)
            case ast.Call(func=ast.Name(id="isnull"), args=[one], keywords=[]):
                return Apply("isnull", (self.read(one, depth + 1)[0],)), "truth"
        op = getattr(node, "op", None)
        remedy = _ALLOWED if op is None else _MEANT.get(type(op), _ALLOWED)
        raise self._source.wrong(f"holds {self._source.part(node)!r}, which is not allowed", remedy)

    def _column(self, node: ast.expr) -> tuple[Node, str]:
        name = self._source.name(node)
        if name is None:
            raise self._source.wrong(f"holds {self._source.part(node)!r}, which is not allowed", _ALLOWED)
        if name not in self._types:
            known = list(self._types)
            remedy = did_you_mean(name, known, f"its columns are {names_in_words(known, 12)}")
            if name in ("true", "false"):
                remedy = f"write {name.capitalize()}"
            raise self._source.wrong(f"names {name!r}, but the input has no such column", remedy)
        kind = kind_of(self._types[name])
        if kind is None:
            what = f"names {name!r}, which holds {self._types[name]}, but one value per row is needed"
            raise self._source.wrong(what, "name another column")
        return ColumnRef(name, kind), kind

    def _constant(self, node: ast.Constant) -> tuple[Node, str]:
        value = node.value
        if isinstance(value, bool):
            return Literal(value), "truth"
        if isinstance(value, str):
            return Literal(value), "text"
        if isinstance(value, int | float):
            try:
                float(value)
            except OverflowError as error:
                raise self._source.wrong("holds a number that is too large", "leave it out") from error
            return Literal(value), "number"
        remedy = "write isnull(…)" if value is None else _ALLOWED
        raise self._source.wrong(f"holds {self._source.part(node)!r}, which is not allowed", remedy)

    def _signed(self, node: ast.UnaryOp, depth: int) -> tuple[Node, str]:
        value = self._number(node.operand, depth)
        if isinstance(node.op, ast.UAdd):
            return value, "number"
        if isinstance(value, Literal) and not isinstance(value.value, str):
            return Literal(-value.value), "number"
        return Apply("-", (Literal(0), value)), "number"

    def _truth(self, node: ast.expr, depth: int) -> Node:
        value, kind = self.read(node, depth + 1)
        if kind != "truth":
            what = f"has {self._source.part(node)!r}, {_KINDS[kind]}, where a condition is needed"
            raise self._source.wrong(what, "compare it with something")
        return value

    def _number(self, node: ast.expr, depth: int) -> Node:
        value, kind = self.read(node, depth + 1)
        if kind not in ("number", "truth"):
            what = f"calculates with {self._source.part(node)!r}, {_KINDS[kind]}"
            raise self._source.wrong(what, "only numbers can be calculated with")
        return value

    def _comparison(self, node: ast.Compare, depth: int) -> tuple[Node, str]:
        sides = [node.left, *node.comparators]
        parts = [
            self._pair(left, op, right, depth)
            for left, op, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return parts[0] if len(parts) == 1 else Apply("and", tuple(parts)), "truth"

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr, depth: int) -> Node:
        if isinstance(op, ast.In | ast.NotIn):
            test = self._one_of(left, right, depth)
            return test if isinstance(op, ast.In) else Apply("not", (test,))
        if type(op) not in _SIGNS:
            what = f"holds {self._source.part(left)!r} is {self._source.part(right)!r}, which is not allowed"
            raise self._source.wrong(what, _MEANT[type(op)])
        one, kind = self.read(left, depth + 1)
        other, other_kind = self.read(right, depth + 1)
        self._check_pair((left, one, kind), (right, other, other_kind))
        if one == other:
            raise self._source.wrong(
                f"compares {self._source.part(left)!r} with itself", "to find nulls, write isnull(…)"
            )
        return Apply(_SIGNS[type(op)], (one, other))

    def _one_of(self, left: ast.expr, right: ast.expr, depth: int) -> Node:
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            what = f"looks in {self._source.part(right)!r}, which is not a list of constants"
            raise self._source.wrong(what, 'write it like carrier in ["AA", "UA"]')
        value, kind = self.read(left, depth + 1)
        constants = []
        for item in right.elts:
            constant, item_kind = self.read(item, depth + 1)
            if not isinstance(constant, Literal):
                what = f"looks for {self._source.part(item)!r}, which is not a constant"
                raise self._source.wrong(what, "list only constants, and join other tests with or")
            self._check_pair((left, value, kind), (item, constant, item_kind))
            constants.append(constant.value)
        if not constants:
            raise self._source.wrong("looks in an empty list", "list some constants")
        return OneOf(value, tuple(constants))

    def _check_pair(self, one: tuple[ast.expr, Node, str], other: tuple[ast.expr, Node, str]) -> None:
        """Checks that two values can be compared: equal kinds, truth and number, or time column and text."""
        kinds = {one[2], other[2]}
        if kinds == {"time"}:
            first, second = (
                self._types[part[1].name] for part in (one, other) if isinstance(part[1], ColumnRef)
            )
            if storage(first) == storage(second):
                return
        elif len(kinds) == 1 or kinds == {"number", "truth"}:
            return
        elif kinds == {"time", "text"}:
            time, text = (one, other) if one[2] == "time" else (other, one)
            if isinstance(time[1], ColumnRef) and isinstance(text[1], Literal):
                self._check_time(time[1].name, str(text[1].value))
                return
        shown = [
            f"{self._source.part(part)!r} ({self._types[node.name] if isinstance(node, ColumnRef) else kind})"
            for part, node, kind in (one, other)
        ]
        remedy = "compare numbers with numbers and texts with texts"
        if "text" in kinds and isinstance(other[1], Literal | ColumnRef) and kinds != {"time", "text"}:
            remedy = "put quotes around a text, and none around a number"
        raise self._source.wrong(f"compares {shown[0]} with {shown[1]}", remedy)

    def _check_time(self, column: str, text: str) -> None:
        dtype = storage(self._types[column])
        try:
            time_constant(text, dtype)
        except (ValueError, OverflowError) as error:  # Arrow's errors are subclasses of ValueError
            raise self._source.wrong(
                f"compares {column!r}, which holds {dtype}, with {text!r}, which is not one",
                'write days like "2013-06-01", times like "2013-06-01 06:00:00", with a zone like Z only '
                'if the column has one, times of day like "06:00:00" and durations like "36:00:00"',
            ) from error
