"""The values of features in a run's sample of rows, with the slices that each row belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.run import Run
from transforms.arrow.types import is_number
from transforms.arrow.value_text import as_text
from transforms.outputs.read_whole import read_whole
from transforms.outputs.run_files import SAMPLE
from transforms.slices.expressions import parse
from transforms.slices.slicings import ByBins, ByColumn, ByCondition, Intersection, Slicing, labels
from transforms.storage import files


@dataclass(frozen=True)
class InputSample:
    """Rows drawn from a run's input, each once.

    Args:
      values: The values of each scalar feature, `[R]`: float64 for numbers, strings for categories.
      categorical: The features whose values are categories.
      slices: Whether each row belongs to a slice, `[R]`, by the slice's name; "" is all rows.
    """

    values: Mapping[str, np.ndarray]
    categorical: frozenset[str]
    slices: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.slices[""])

    @cached_property
    def names(self) -> list[str]:
        """The names of the slices, `S`."""
        return list(self.slices)

    @cached_property
    def member(self) -> np.ndarray:
        """Whether each row belongs to each slice, `[S, R]`."""
        return np.stack([self.slices[name] for name in self.names])

    @cached_property
    def rows(self) -> np.ndarray:
        """The number of rows in each slice, `[S]`."""
        rows: np.ndarray = self.member.sum(axis=1)
        return rows

    @cached_property
    def distinct(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The distinct values of each feature in ascending order, and each row's place among them."""
        return {
            feature: np.unique(values, return_inverse=True)
            for feature, values in self.values.items()
            if len(values)
        }

    def share(self, flags: np.ndarray) -> np.ndarray:
        """The share of marked rows in each slice, `[S]`; NaN for a slice without rows."""
        marked = self.member.astype(np.float32) @ flags.astype(np.float32)
        share: np.ndarray = np.divide(
            marked, self.rows, out=np.full(len(self.names), np.nan), where=self.rows > 0
        )
        return share

    def in_order(self, values: np.ndarray, names: Sequence[str], otherwise: float) -> np.ndarray:
        """Values of slices `[S]` in the order of other names; a slice that the run lacks gets `otherwise`."""
        at = {name: index for index, name in enumerate(self.names)}
        return np.array([values[at[name]] if name in at else otherwise for name in names])


def read_input_sample(run: Run) -> InputSample | None:
    """Reads the values of a run's sampled rows; None where the run keeps no sample.

    Raises:
      UserError: The sample is damaged.
    """
    path = files.join(run.path, SAMPLE)
    if not files.exists(path):
        return None
    table = read_whole(path)
    if "feature" not in table.column_names:
        return None
    table = table.filter(pc.equal(table["kind"], "sample"))
    # One row for each example: those of the first target that it has.
    if run.rows_per_example > 1:
        table = table.take(pa.array(_first_of_each(table["example_id"].to_pylist())))
    struct = table["feature"].combine_chunks()
    codes = {item["name"] for item in run.manifest["schema"] if item["kind"] == "categorical"}
    values: dict[str, np.ndarray] = {}
    categorical: set[str] = set()
    for at, field in enumerate(struct.type):
        column = struct.field(at)
        if is_number(field.type) and field.name not in codes:
            values[field.name] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        elif not pa.types.is_nested(field.type) and not pa.types.is_binary(field.type):
            values[field.name] = as_text(column).to_numpy(zero_copy_only=False).astype(str)
            categorical.add(field.name)
    return InputSample(values, frozenset(categorical), _slices(run, table))


def _first_of_each(ids: Sequence[str]) -> list[int]:
    first: dict[str, int] = {}
    for at, name in enumerate(ids):
        first.setdefault(name, at)
    return list(first.values())


def _slices(run: Run, table: pa.Table) -> dict[str, np.ndarray]:
    member = {"": np.ones(len(table), bool)}
    slicings = [_slicing(item, table) for item in run.manifest.get("slices") or []]
    known = [slicing for slicing in slicings if slicing is not None]
    columns = {name: table[name].combine_chunks() for slicing in known for name in slicing.columns}
    for encoded in labels(known, columns).values():
        indices = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        for code, name in enumerate(encoded.dictionary.to_pylist()):
            if name is not None and (at := indices == code).any():
                member[name] = at
    return member


def _slicing(item: Mapping[str, Any], table: pa.Table) -> Any:
    """A slicing from its description in the manifest; None where the sample lacks one of its columns."""
    if not set(item["columns"]).issubset(table.column_names):
        return None
    made: Slicing
    match item["kind"]:
        case "column":
            made = ByColumn(item["columns"][0])
        case "bins":
            made = ByBins(item["columns"][0], tuple(item["edges"]))
        case "intersection":
            made = Intersection(tuple(_slicing(part, table) for part in item["parts"]))
        case _:
            types = {field.name: field.type for field in table.schema}
            made = ByCondition(item["name"], parse(item["name"], types))
    return made
