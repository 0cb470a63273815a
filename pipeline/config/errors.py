"""Reports an invalid config in one line: the file, the key, the value and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from transforms.errors import UserError
from transforms.wording import did_you_mean

#: Types in words, by pydantic's name of the error.
_KINDS = {
    "string_type": "text",
    "invalid_key": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
#: Bounds, by the key of pydantic's context that holds the limit.
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def as_user_error(
    error: ValidationError, where: str, keys_at: Callable[[Sequence[str]], Sequence[str]]
) -> UserError:
    """Turns the first problem that pydantic found into a UserError.

    Args:
      error: Pydantic's error.
      where: The config file; "" if the caller adds it.
      keys_at: Returns the known keys of the block at a location.
    """
    problems = [(_location(problem), problem) for problem in error.errors(include_url=False)]
    unknown = [item for item in problems if item[1]["type"] == "extra_forbidden"]
    # A misspelt key is also missing under its right name. For a union, pydantic lists the errors of all
    # branches: the deepest one shows which branch was meant.
    within = [item for item in problems if item[0][: len(problems[0][0])] == problems[0][0]]
    location, first = unknown[0] if unknown else max(within, key=lambda item: _depth(*item))
    place = ": ".join(part for part in (where, ".".join(location)) if part)
    if first["type"] == "extra_forbidden":
        return UserError("unknown key", place, nearest_key(location[-1], keys_at(location[:-1])))
    if first["type"] == "missing":
        return UserError("is missing", place, "the config needs it")
    if first["type"] == "string_too_short":
        return UserError("is empty", place, "give a path")
    if first["type"] == "too_short":
        return UserError("is empty", place, "give at least one, or leave the key out")
    same = [problem for spot, problem in problems if spot == location]
    wanted = list(dict.fromkeys(word for problem in same for word in _wanted(problem)))
    if not wanted:
        message = str(first["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        return UserError(message, place)
    given, remedy = first["input"], None
    known = [str(name) for problem in same for name in _literals(problem)]
    if isinstance(given, str) and known:
        remedy = did_you_mean(given.lower(), known, most=1, cutoff=0.5) or None
    return UserError(f"must be {_words(wanted)}, not {_shown(given)}", place, remedy)


def _depth(location: Sequence[str], problem: Mapping[str, Any]) -> tuple[int, bool]:
    return len(location), problem["type"] == "too_short"


def _words(wanted: Sequence[str]) -> str:
    return wanted[0] if len(wanted) == 1 else f"{', '.join(wanted[:-1])} or {wanted[-1]}"


def _wanted(problem: Mapping[str, Any]) -> list[str]:
    """The expected values in words; none where pydantic's own message is better."""
    kind, context = str(problem["type"]), problem.get("ctx", {})
    if kind in _KINDS:
        return [_KINDS[kind]]
    if kind == "literal_error":
        return _literals(problem)
    return [f"{word} {_limit(context[key])}" for key, word in _BOUNDS.items() if key in context]


def _limit(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _literals(problem: Mapping[str, Any]) -> list[str]:
    if problem["type"] != "literal_error":
        return []
    return str(problem["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "nothing" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _location(problem: Mapping[str, Any]) -> list[str]:
    """The keys of a location, without the names of union branches that pydantic inserts."""
    parts: Sequence[int | str] = problem["loc"]
    # An unknown key may itself be called int.
    own = len(parts) - 1 if problem["type"] == "extra_forbidden" else len(parts)
    return [
        str(part)
        for index, part in enumerate(parts)
        if isinstance(part, int) or index == own or not _is_branch(part)
    ]


def _is_branch(part: str) -> bool:
    return part in _BRANCHES or "[" in part or part.startswith("constrained-")


_BRANCHES = {"int", "str", "bool", "float", "TargetColumn", "TopK", "Bins"}


def nearest_key(key: str, known: Sequence[str]) -> str:
    """The remedy for an unknown key: `did you mean …?`, or the known keys."""
    otherwise = f"known: {', '.join(known)}" if known else "remove it"
    return did_you_mean(key.lower(), known, otherwise, most=1, cutoff=0.5)
