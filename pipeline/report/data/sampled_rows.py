"""Rows of a run's sample: the form of each feature, φ and values of the rows, and both in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.blocks import Block, Choice, Prose
from pipeline.report.data.tables import ReportData
from pipeline.report.data.view import View
from pipeline.wording import number, plain, scalar_or_shape, shorten
from transforms.arrow.value_text import as_text

#: Columns that every table of attributions has; all others are slices.
_OWN = frozenset(
    (
        *("kind", "example_id", "target", "target_name", "prediction", "output", "base_value"),
        *("convergence_delta", "attribution", "standard_error", "fit", "feature", "weight"),
    )
)
#: The fewest rows or columns of a picture.
_LEAST_SIDE = 4
#: Extents of a first or last axis that make it the channels of a picture.
_COLOURS = (1, 3)
#: Forms of features that have several numbers in a row.
TENSORS = ("picture", "tokens", "vector")
#: Most characters of a value in words.
_VALUE = 40


@dataclass(frozen=True)
class ShownFeature:
    """A feature as the report shows it.

    Args:
      name: Its name in the tables.
      label: Its name in words.
      form: number | category | group | picture | tokens | vector; the last three are tensors.
      shape: The shape of its attribution in a row, `()` for one number.
      channels: The axis of a picture's channels; None without one.
      members: The features of a group.
      image: Whether the config calls it an image, whose pixels are 0 to 255.
    """

    name: str
    label: str
    form: str
    shape: tuple[int, ...] = ()
    channels: int | None = None
    members: tuple[str, ...] = ()
    image: bool = False


def shown_features(data: ReportData) -> list[ShownFeature]:
    """The features of the sampled rows in the tables' order, each with its form."""
    schema = {item["name"]: item for item in data.manifest["schema"]}
    groups = data.manifest["config"]["input"].get("groups") or {}
    shown = []
    for name in data.features:
        label = data.label(name)
        if name in groups:
            shown.append(ShownFeature(name, label, "group", members=tuple(groups[name])))
            continue
        item = schema[name]
        shape, kind, image = tuple(item["shape"]), item["dtype"], item["kind"] == "image"
        form, channels = _form(shape, kind, image)
        if form == "number" and (item["kind"] == "categorical" or kind == "string"):
            form = "category"
        shown.append(ShownFeature(name, label, form, shape, channels, image=image))
    return shown


def most_important(data: ReportData, form: str, most: int) -> tuple[list[ShownFeature], str]:
    """The most important features of a form, and a sentence on the others; empty if there are none.

    Args:
      data: The run's tables.
      form: See `ShownFeature`.
      most: Most features to return: those of largest mean |φ| over all targets, in the tables' order.
    """
    of_form = [feature for feature in shown_features(data) if feature.form == form]
    if len(of_form) <= most:
        return of_form, ""
    frame = data.importance[data.importance["slice"] == ""]
    weight = frame.groupby("feature")["mean_abs"].sum()
    first = set(sorted((feature.name for feature in of_form), key=lambda name: -weight[name])[:most])
    rest = f"The {most} most important ones are shown, {len(of_form) - most:,} others are not."
    return [feature for feature in of_form if feature.name in first], rest


def _form(shape: tuple[int, ...], dtype: str, image: bool) -> tuple[str, int | None]:
    """The form of a feature of this shape, and the axis of a picture's channels."""
    if int(np.prod(shape, dtype=np.int64)) == 1:
        return "number", None
    channels = None
    if len(shape) == 3:
        first = shape[0] in _COLOURS and shape[2] not in _COLOURS
        channels = 0 if first else 2
    spatial = [extent for axis, extent in enumerate(shape) if axis != channels]
    pictured = len(spatial) == 2 and min(spatial) >= _LEAST_SIDE
    if len(shape) in (2, 3) and (image or (pictured and dtype != "string")):
        return "picture", channels
    long = [extent for extent in shape if extent > 1]
    if len(long) == 1 and (dtype == "string" or np.dtype(dtype).kind in "iu"):
        return "tokens", None
    return "vector", None


@dataclass(frozen=True)
class SampledRows:
    """Rows of the sample of one target, as arrays.

    Args:
      table: The rows.
      features: The features of the rows.
    """

    table: pa.Table
    features: Sequence[ShownFeature]

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def phi(self) -> np.ndarray:
        """φ by feature, `[N, features]`; a tensor's φ are summed."""
        columns = [self.attribution(feature).reshape(len(self), -1).sum(axis=1) for feature in self.features]
        return np.column_stack(columns) if columns else np.zeros((len(self), 0))

    def attribution(self, feature: ShownFeature) -> np.ndarray:
        """φ of a feature, `[N, *shape]`, float64."""
        return ReportData.values(self.table, "attribution", feature.name).astype(np.float64)

    def value(self, name: str) -> np.ndarray:
        """The values of a feature or a group's member, `[N, *shape]`; strings as objects."""
        return ReportData.values(self.table, "feature", name)

    @cached_property
    def prediction(self) -> np.ndarray:
        """The score, `[N]`."""
        return self.numbers("prediction")

    @cached_property
    def base_value(self) -> np.ndarray:
        """The score at the baseline, `[N]`."""
        return self.numbers("base_value")

    def numbers(self, column: str) -> np.ndarray:
        """A column of numbers, `[N]`, float64; nulls as NaN."""
        return self.table[column].cast(pa.float64()).to_numpy().astype(np.float64)

    def ids(self) -> list[str]:
        """Ids of the examples."""
        return [str(text) for text in self.table["example_id"].to_pylist()]

    def slices(self, row: int) -> list[tuple[str, str]]:
        """The row's slice columns by name, in words."""
        names = [name for name in self.table.column_names if name not in _OWN]
        return [(name, in_words(self._slice_value(name, row), counted=False)) for name in names]

    def _slice_value(self, name: str, row: int) -> object:
        value = self.table[name].slice(row, 1)
        # Python's dates end at the year 9999 and have none BC.
        return (as_text(value) if pa.types.is_temporal(value.type) else value)[0].as_py()

    def take(self, rows: Sequence[int] | np.ndarray) -> SampledRows:
        """Selects rows by their positions."""
        return SampledRows(self.table.take(pa.array(np.asarray(rows, np.int64))), self.features)


def sample_by_target(data: ReportData, most: int) -> dict[int, dict[str, SampledRows]]:
    """The sample by target and by kind: "sample", "largest", "smallest".

    Args:
      data: The run's tables; without a sample, the result is empty.
      most: Most targets to include: those with the most rows.
    """
    if data.sample is None:
        return {}
    features = shown_features(data)
    targets = data.sample["target"].to_numpy()
    kinds = np.array(data.sample["kind"].to_pylist(), object)
    by_target: dict[int, dict[str, SampledRows]] = {}
    for target in list(data.targets)[:most]:
        by_kind = {
            kind: SampledRows(
                data.sample.take(pa.array(np.flatnonzero((targets == target) & (kinds == kind)))), features
            )
            for kind in ("sample", "largest", "smallest")
        }
        if any(map(len, by_kind.values())):
            by_target[target] = by_kind
    return by_target


# -- words ---------------------------------------------------------------------------------------------------


def value_in_words(feature: ShownFeature, rows: SampledRows, row: int) -> str:
    """A feature's value in a row: a group as its members' values, a tensor as its shape."""
    if "feature" not in rows.table.column_names:
        return ""
    if feature.form == "group":
        return ", ".join(f"{name} {in_words(rows.value(name)[row])}" for name in feature.members)
    return in_words(rows.value(feature.name)[row], counted=feature.form == "number")


def in_words(value: Any, counted: bool = True) -> str:
    """A value from the tables in words: a number in few digits, a tensor by its shape.

    Args:
      value: A number, a string, an array or nothing.
      counted: Whether to separate thousands, as in 2,475; not for codes such as the year 2013.
    """
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]

    def scalar_in_words(scalar: Any) -> str:
        if scalar is None or (isinstance(scalar, float) and np.isnan(scalar)):
            return "missing"
        is_count = isinstance(scalar, int) and counted and not isinstance(scalar, bool)
        if isinstance(scalar, float) or is_count:
            return number(scalar, 4 if abs(scalar) < 1000 else 6)
        return shorten(plain(str(scalar)), _VALUE)

    return scalar_or_shape(value, scalar_in_words)


def distinct(names: Iterable[str]) -> list[str]:
    """The names made distinct: a repeated one is numbered, `age (2)`."""
    names_apart: list[str] = []
    taken: set[str] = set()
    for name in names:
        own, number = name, 1
        while own in taken:
            number += 1
            own = f"{name} ({number})"
        taken.add(own)
        names_apart.append(own)
    return names_apart


def by_target(data: ReportData, made: Mapping[int, Any]) -> dict[str, Any]:
    """Renames the keys of values by target: from indexes to the names that choices show."""
    names = View(data).target_names
    return {names[target]: one for target, one in made.items()}


def target_choice(data: ReportData, made: Mapping[int, Sequence[Block]]) -> list[Block]:
    """The blocks of the only target, or a choice between targets, and a sentence on targets not shown."""
    blocks: list[Block] = [block for own in made.values() for block in own]
    if len(made) > 1:
        blocks = [Choice("Target", by_target(data, made))]
    rest = left_out(data, len(made))
    return [*blocks, Prose(rest)] if rest else blocks


def feature_choice(label: str, made: Mapping[str, Sequence[Block]], rest: str) -> list[Block]:
    """The blocks of the only feature, or a choice between features, after a sentence on features not shown.

    Args:
      label: The kind of feature, such as "Picture".
      made: Blocks by feature.
      rest: The sentence on features not shown; may be empty.
    """
    blocks: list[Block] = [block for own in made.values() for block in own]
    if len(made) > 1:
        blocks = [Choice(label, made)]
    return [Prose(rest), *blocks] if rest else blocks


def left_out(data: ReportData, shown: int) -> str:
    """A sentence on the targets that are not shown; empty if all are shown."""
    rest = len(data.targets) - shown
    return f"The {shown} targets of most rows are shown, {rest:,} others are not." if rest > 0 else ""


# -- by position ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Means:
    """Means of a tensor's φ by position.

    Args:
      absolute: Mean |φ|, `[*shape]`.
      mean: Mean φ, `[*shape]`.
      rows: The rows over which means are taken, in a sentence.
    """

    absolute: np.ndarray
    mean: np.ndarray
    rows: str


def mean_by_position(data: ReportData, target: int, feature: ShownFeature) -> Means | None:
    """Means of a tensor's φ by position, over all rows if the run kept them, otherwise over the sample.

    Returns:
      None if the run has neither.
    """
    if data.positions is not None:
        table = data.positions
        here = pc.and_(pc.equal(table["target"], target), pc.equal(table["feature"], feature.name))
        table = table.filter(here)
        if len(table):
            index = table["index"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
            means = np.zeros((2, *feature.shape))
            for own, column in zip(means, ("mean_abs", "mean"), strict=True):
                own[tuple(index.T)] = table[column].to_numpy()
            return Means(means[0], means[1], "Over all rows.")
    rows = sample_by_target(data, len(data.targets)).get(target, {}).get("sample")
    if not rows:
        return None
    phi = rows.attribution(feature)
    return Means(np.abs(phi).mean(axis=0), phi.mean(axis=0), f"Over {len(rows):,} rows drawn at random.")
