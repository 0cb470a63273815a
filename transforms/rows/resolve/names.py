"""Matching columns to a model's names, with errors for names that have no column."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace

import pyarrow as pa

from transforms.errors import UserError
from transforms.models.base import InputSpec
from transforms.rows.resolve.feature import FEATURES, FeatureRequest
from transforms.wording import close, names_in_words

#: Names that TensorFlow gives to the inputs of a signature without names.
_NAMELESS = re.compile(r"(args|inputs|kwargs|input|input_layer|keras_tensor)(_\d+)*")


def by_value(
    features: tuple[FeatureRequest, ...] | None,
    spec: InputSpec,
    columns: Mapping[str, pa.DataType],
    reserved: Set[str | None],
) -> list[FeatureRequest]:
    """Features of a model that names the values of its vector, in its order.

    Args:
      features: Features that the config lists; None: the columns of these names.
      spec: The model's input.
      columns: The columns of the files, with their types.
      reserved: Columns with another role.
    Raises:
      UserError: A name has no column, or several.
    """
    if features is None:
        columns_of: dict[str, list[str]] = {}
        for name in columns:
            columns_of.setdefault(spelled(spec, name), []).append(name)
        chosen = [
            FeatureRequest(_meant(name, columns_of[name], reserved), input=name)
            for name in spec.values
            if name in columns_of
        ]
    else:
        chosen = [replace(feature, input=spelled(spec, feature.feeds)) for feature in features]
        for name, count in Counter(feature.feeds for feature in chosen).items():
            if count > 1:
                _meant(name, [feature.name for feature in chosen if feature.feeds == name], frozenset())
    rule = "The model takes them by name"
    check_names(chosen, features is not None, spec.values, columns, reserved, "features", rule)
    given = {feature.feeds: feature for feature in chosen}
    return [given[name] for name in spec.values]


def spelled(spec: InputSpec, column: str) -> str:
    """The model's name for a column: LightGBM writes underscores for spaces."""
    return column.replace(" ", "_") if spec.respelled else column


def _meant(name: str, columns: Sequence[str], reserved: Set[str | None]) -> str:
    """The column of a model's feature, whose name the model's library may have respelled.

    Raises:
      UserError: Several columns fit.
    """
    free = columns if len(columns) == 1 else [column for column in columns if column not in reserved]
    if len(free) == 1:
        return free[0]
    words = [repr(column) for column in columns]
    raise UserError(
        f"the model's feature {name!r} may be any of the columns {names_in_words(words)}: "
        "LightGBM writes underscores for spaces",
        FEATURES,
        "list the features, with the column that the model was trained on",
    )


def check_names(
    chosen: Sequence[FeatureRequest],
    listed: bool,
    names: Sequence[str],
    columns: Mapping[str, pa.DataType],
    reserved: Set[str | None],
    noun: str,
    rule: str,
    fitting: Callable[[str, str], bool] = lambda column, name: True,
) -> None:
    """Checks that every name of the model is fed, and that every feature the config lists feeds one.

    Columns that the config does not list, such as a label, may be left over. The remedy shows how to feed a
    name, with a column that fits it if there is one.
    """
    known, given = set(names), {feature.feeds for feature in chosen}
    used = {feature.name for feature in chosen}
    missing = [name for name in names if name not in given]
    left = [feature.name for feature in chosen if feature.feeds not in known]
    if not missing and not left:
        return
    if not listed:
        left = [name for name in columns if name not in used and name not in reserved]
    words, near = [], []
    if missing:
        lacking = "are not among the features" if listed else "have no column of the same name"
        words.append(f"the model's {noun} {names_in_words(missing, 20)} {lacking}")
        pool = left or [name for name in columns if name not in used]
        near = [f"{alike[0]} for {name}" for name in missing if (alike := close(name, pool))]
    if left:
        words.append(f"left over: {names_in_words(left, 20)}")
    remedy = f"{rule}: {names_in_words(names, 20)}"
    pairs = [(column, name) for column in left or ["COLUMN"] for name in missing or names]
    column, name = next((pair for pair in pairs if left and fitting(*pair)), pairs[0])
    mapped = f"{{name: {column}, input: {name}}}"
    if near:
        remedy = f"did you mean {names_in_words(near)}? {remedy}"
    elif missing and all(map(_NAMELESS.fullmatch, names)):
        remedy = f"the names of its inputs do not say what they are: give each its column, as {mapped}"
    else:
        remedy = remedy[:1].lower() + remedy[1:]  # in the middle of the line
        remedy += f", or by the key input: {mapped}"
    raise UserError("; ".join(words), FEATURES, remedy)
