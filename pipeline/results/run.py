"""A committed run as tables: importance, attributions, one example, and a shap.Explanation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.results.explanation import make_explanation, value_in_words
from pipeline.results.feature_values import feature_values
from pipeline.results.input_rows import file_rows
from pipeline.results.tables import KEEP, NO_TABLE, RunTables
from pipeline.run_directory.committed import read_manifest
from transforms.arrow.value_text import as_text
from transforms.errors import UserError
from transforms.outputs.run_files import WORK
from transforms.storage import files

#: Most rows with a repeated id that an error lists.
_PLACES = 8


def load_run(path: str | os.PathLike[str]) -> Run:
    """Opens a committed run.

    Args:
      path: The run directory, local or a Beam filesystem URL.
    Raises:
      UserError: There is no committed run at the path.
    """
    run = os.fspath(path)
    manifest = read_manifest(run)
    if manifest is not None:
        return Run(run, manifest)
    if files.exists(files.join(run, WORK)):
        problem, remedy = "the run is not committed: it did not finish", "explain again with the same command"
    elif files.exists(run):
        problem, remedy = (
            "is not a run directory: it holds no manifest.json",
            "give the folder that explain wrote",
        )
    else:
        problem, remedy = "there is no such run", "check the path"
    raise UserError(problem, run, remedy)


@dataclass(frozen=True)
class Example:
    """One explained example.

    Args:
      rows: The example's rows of the attributions table, one for each target.
      values: The feature values by the names of the attributions, `name[0, 1]` for tensors. Empty if the run
        keeps no values and the input is gone.
      places: `file:row` of all rows with the example's id, its own first, if several rows have the id.
    """

    rows: list[dict[str, Any]]
    values: dict[str, Any]
    places: tuple[str, ...] = ()


class Run(RunTables):
    """A committed run: its tables, a shap.Explanation of them, and single examples.

    Attributes:
      path: The run directory.
      manifest: The content of its manifest.json.
    """

    def __repr__(self) -> str:
        rows, method = self.manifest["counts"]["rows_attributed"], self.manifest["config"]["method"]["name"]
        return f"Run({self.path!r}, rows={rows}, method={method})"

    def explanation(self, rows: int | None = 1000, *, target: int | str | None = None, seed: int = 0) -> Any:
        """Makes a shap.Explanation of some rows, on which every `shap.plots.*` works.

        Tensors are split into features called `name[index]`. Feature values come from the tables if the run
        wrote them (`output.features: true`), else from the input files. For strings, `data` holds the rank in
        the alphabet and `display_data` the string. `feature_names` are the names in the tables, which other
        calls take; `Run.labels` has the labels.

        Args:
          rows: Number of rows, drawn without replacement and kept in the table's order; None: all.
          target: The output, by index or name; needed if the tables hold several.
          seed: Seed of the draw.
        Raises:
          UserError: The run kept only the largest attributions or none, several targets and none given,
            `rows` below 1, or the input is gone.
        Cost: reads the attributions, and the input if the feature values are there.
        """
        return make_explanation(self, rows, target, seed)

    def example(self, example_id: str, at: str | None = None) -> Example:
        """Reads one example: its rows of the attributions table, and its feature values.

        Args:
          example_id: The example's id; if several rows have it, the first one is taken.
          at: `file:row` of the row to take instead.
        Raises:
          UserError: There is no such example, or it was rejected; the error says why.
        Cost: reads the ids of all parts.
        """
        parts = self.parts()
        if not parts:
            raise UserError(NO_TABLE, self.path, KEEP)
        matches: list[tuple[int, int]] = []
        for number, part in enumerate(parts):
            ids = pq.read_table(files.local_copy(part), columns=["example_id"])["example_id"].combine_chunks()
            rows = pc.indices_nonzero(pc.equal(ids, example_id)).to_numpy()
            matches += [(number, int(row)) for row in rows[:: self.rows_per_example] // self.rows_per_example]
        if not matches:
            raise self._no_example(example_id, parts[0])
        places = tuple(file_rows(self, matches)) if at is not None or len(matches) > 1 else ()
        if at is not None and at not in places:
            remedy = f"the rows with this id are {', '.join(places[:_PLACES])}"
            raise UserError(f"the row {at!r} does not have the id {example_id!r}", self.path, remedy)
        chosen = 0 if at is None else places.index(at)
        number, position = matches[chosen]
        per_example = self.rows_per_example
        table = pq.read_table(files.local_copy(parts[number])).slice(position * per_example, per_example)
        values = self._example_values(table, number, position)
        others = tuple(place for place in places if place != places[chosen])
        return Example(_readable(table).to_pylist(), values, (places[chosen], *others) if others else ())

    def _example_values(self, table: pa.Table, part: int, position: int) -> dict[str, Any]:
        try:
            inputs = feature_values(self, table.slice(0, 1), np.array([[part, position]]))
        except UserError:
            return {}  # attributions can be shown without values
        values: dict[str, Any] = {}
        for name, array in inputs.items():
            value = array[0]
            if isinstance(value, np.ndarray) and value.ndim:
                values |= {f"{name}{list(index)}": value[index].item() for index in np.ndindex(*value.shape)}
            else:
                values[name] = value.item() if isinstance(value, np.generic) else value
        for group, members in self.manifest["config"]["input"]["groups"].items():
            values[group] = ", ".join(value_in_words(inputs[member][0]) for member in members)
        return values

    def _no_example(self, example_id: str, part: str) -> UserError:
        rejected = self.rejected()
        reasons = rejected.filter(pc.equal(rejected["example_id"], example_id))["reason"].to_pylist()
        if reasons:
            return UserError(f"example {example_id!r} was rejected: {reasons[0]}", self.path)
        some = (
            pq.read_table(files.local_copy(part), columns=["example_id"])["example_id"]
            .unique()[:3]
            .to_pylist()
        )
        remedy = f"its ids look like {', '.join(map(repr, some))}" if some else None
        return UserError(f"there is no example {example_id!r}", self.path, remedy)


def _readable(table: pa.Table) -> pa.Table:
    """Dates and times as text: Python has none beyond the year 9999 or before the year 1."""
    for index, field in enumerate(table.schema):
        if pa.types.is_temporal(field.type):
            table = table.set_column(index, field.name, as_text(table.column(index)))
    return table
