"""A committed run as tables: importance, attributions, one example, and a shap.Explanation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.results.input_rows import file_rows
from pipeline.run_directory.committed import read_manifest
from transforms.arrow.value_text import as_text
from transforms.errors import UserError
from transforms.outputs.parts import IMPORTANCE
from transforms.outputs.read_whole import read_whole
from transforms.storage import files

if TYPE_CHECKING:
    import pandas as pd

_NO_TABLE = "the run holds no attributions"
_KEEP = "set output.attributions: all"
#: Rows of a repeated id that a line names.
_PLACES = 8


def load_run(path: str | os.PathLike[str]) -> Run:
    """Opens a committed run.

    Args:
      path: Its directory, or a Beam filesystem URL of one.
    Raises:
      UserError: There is no committed run.
    """
    run = os.fspath(path)
    manifest = read_manifest(run)
    if manifest is not None:
        return Run(run, manifest)
    if files.exists(files.join(run, "_work")):
        what, remedy = "the run is not committed: it did not finish", "explain again with the same command"
    elif files.exists(run):
        what, remedy = "is no run directory: it holds no manifest.json", "name the folder that explain wrote"
    else:
        what, remedy = "there is no such run", "check the path"
    raise UserError(what, run, remedy)


@dataclass(frozen=True)
class Example:
    """One explained example.

    Args:
      rows: Of the attributions table, one a target.
      values: Its feature values by the names of the attributions, of a tensor each as `name[0, 1]`; empty
        where the run keeps none and the input is gone.
      places: `file:row` of all rows that have its id, where several do; the first is its own.
    """

    rows: list[dict[str, Any]]
    values: dict[str, Any]
    places: tuple[str, ...] = ()


class Run:
    """The tables of a committed run.

    Attributes:
      path: Its directory.
      manifest: What it was.
    """

    def __init__(self, path: str, manifest: Mapping[str, Any]) -> None:
        self.path, self.manifest = path, dict(manifest)

    def __repr__(self) -> str:
        rows, method = self.manifest["counts"]["rows_attributed"], self.manifest["config"]["method"]["name"]
        return f"Run({self.path!r}, rows={rows}, method={method})"

    @property
    def features(self) -> list[str]:
        """Names in the tables."""
        return list(self.manifest["features"])

    @property
    def labels(self) -> dict[str, str]:
        """What features and groups are called in words, by name, where the config says it."""
        texts = self.manifest["config"].get("features") or {}
        return {name: text["label"] for name, text in texts.items() if text.get("label")}

    @property
    def rows_per_example(self) -> int:
        """Targets that each example is explained for."""
        counts = self.manifest["counts"]
        return int(counts["attributions"] // max(counts["rows_attributed"], 1)) or 1

    @property
    def has_report(self) -> bool:
        """Whether there is a report.html."""
        return files.exists(files.join(self.path, "report.html"))

    def table(self, file: str) -> pa.Table:
        """A table of the run as a whole, by its path in the run directory.

        Raises:
          UserError: It is not there, or damaged.
        """
        return read_whole(files.join(self.path, file))

    def importance(self, *, slice: str | None = None, target: int | str | None = None) -> pd.DataFrame:
        """Global importance: all rows first, then slice by slice; most important feature first.

        What its columns are and how exact says `transforms.aggregates.importance.TABLE`.

        Args:
          slice: Only this slice, `column=value`; "" is all rows. None: everything.
          target: Only this output, by index or name.
        Raises:
          UserError: No output has the name.
        """
        frame: pd.DataFrame = self.table(IMPORTANCE).to_pandas()
        if slice is not None:
            frame = frame[frame["slice"] == slice]
        if target is not None:
            frame = frame[frame["target"] == self.target_index(target)]
        return frame.reset_index(drop=True)

    def attributions(
        self, columns: Sequence[str] | None = None, filter: pc.Expression | Sequence[Any] | None = None
    ) -> pa.Table:
        """The attributions table, or part of it.

        Args:
          columns: Some columns; fields by a dotted name such as "attribution.distance".
          filter: Which rows, such as `pc.field("prediction") > 0`, or as pandas has them,
            `[("carrier", "=", "UA")]`.
        Raises:
          UserError: The run wrote no attributions, they have no such column, or the filter does not fit them.
        Cost: reads the columns asked for of all parts; rows outside the filter are skipped by row group.
        """
        dataset = self._dataset("attributions")
        if dataset is None:
            raise UserError(_NO_TABLE, self.path, _KEEP)
        if isinstance(columns, str):
            raise UserError("columns is a string", "attributions", f"give a list: [{columns!r}]")
        chosen = None if columns is None else {name: _field(name, dataset.schema) for name in columns}
        try:
            if filter is not None and not isinstance(filter, pc.Expression):
                filter = pq.filters_to_expression(filter)
            scanner = dataset.scanner(columns=chosen, filter=filter)
        except (pa.ArrowException, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            remedy = 'write it like pc.field("prediction") > 0 or [("prediction", ">", 0)]'
            raise UserError(f"the filter does not fit the table: {reason}", "attributions", remedy) from error
        return scanner.to_table()

    def rejected(self) -> pa.Table:
        """Rows that could not be explained, with stage and reason."""
        from transforms.outputs.write import REJECTED

        dataset = self._dataset("rejected")
        return REJECTED.empty_table() if dataset is None else dataset.to_table()

    def explanation(self, rows: int | None = 1000, *, target: int | str | None = None, seed: int = 0) -> Any:
        """A shap.Explanation of some rows: every shap.plots.* works on it.

        Features that are tensors are taken apart into `name[index]`. Feature values come from the table where
        the run wrote them (`output.features: true`), else from the input files. Of strings, `data` holds the
        rank in the alphabet and `display_data` the string. `feature_names` are the names in the tables, which
        other calls take; labels in words are in `labels`.

        Args:
          rows: At random without replacement, in the table's order; None: all.
          target: Output by index or name; needed where the table holds several.
          seed: Of the draw.
        Raises:
          UserError: No attributions in full, several targets and none given, `rows` below 1, or the input
            is gone.
        Cost: reads the attributions of the parts, and the input where it holds the feature values.
        """
        from pipeline.results.explanation import make_explanation

        return make_explanation(self, rows, target, seed)

    def example(self, example_id: str, at: str | None = None) -> Example:
        """One example's rows of the attributions table and its feature values.

        Args:
          example_id: Its id; where several rows have it, the first of them is meant.
          at: `file:row` of the one that is meant instead.
        Raises:
          UserError: No such example, or it was rejected; the line says why.
        Cost: reads the ids of all parts.
        """
        parts = self.parts()
        if not parts:
            raise UserError(_NO_TABLE, self.path, _KEEP)
        found: list[tuple[int, int]] = []
        for number, part in enumerate(parts):
            ids = pq.read_table(files.local_copy(part), columns=["example_id"])["example_id"].combine_chunks()
            rows = pc.indices_nonzero(pc.equal(ids, example_id)).to_numpy()
            found += [(number, int(row)) for row in rows[:: self.rows_per_example] // self.rows_per_example]
        if not found:
            raise self._no_example(example_id, parts[0])
        places = tuple(file_rows(self, found)) if at is not None or len(found) > 1 else ()
        if at is not None and at not in places:
            remedy = f"the id is that of {', '.join(places[:_PLACES])}"
            raise UserError(f"the row {at!r} does not have the id {example_id!r}", self.path, remedy)
        chosen = 0 if at is None else places.index(at)
        number, position = found[chosen]
        per_example = self.rows_per_example
        table = pq.read_table(files.local_copy(parts[number])).slice(position * per_example, per_example)
        values = self._example_values(table, number, position)
        others = tuple(place for place in places if place != places[chosen])
        return Example(_readable(table).to_pylist(), values, (places[chosen], *others) if others else ())

    def _example_values(self, table: pa.Table, part: int, position: int) -> dict[str, Any]:
        from pipeline.results.explanation import in_words
        from pipeline.results.feature_values import feature_values

        try:
            found = feature_values(self, table.slice(0, 1), np.array([[part, position]]))
        except UserError:
            return {}  # the attributions can do without
        values: dict[str, Any] = {}
        for name, array in found.items():
            value = array[0]
            if isinstance(value, np.ndarray) and value.ndim:
                values |= {f"{name}{list(at)}": value[at].item() for at in np.ndindex(*value.shape)}
            else:
                values[name] = value.item() if isinstance(value, np.generic) else value
        for group, members in self.manifest["config"]["input"]["groups"].items():
            values[group] = ", ".join(in_words(found[member][0]) for member in members)
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
        remedy = f"its ids are like {', '.join(map(repr, some))}" if some else None
        return UserError(f"there is no example {example_id!r}", self.path, remedy)

    def parts(self, folder: str = "attributions") -> list[str]:
        """Part files, in the input's order."""
        names = [part["file"] for part in self.manifest["parts"]]
        return [files.join(self.path, name) for name in names if name.startswith(f"{folder}/")]

    def _dataset(self, folder: str) -> Any:
        parts = self.parts(folder)
        return ds.dataset([files.local_copy(part) for part in parts], format="parquet") if parts else None

    def target_index(self, target: int | str | None) -> int | None:
        """The index of a target given by index or name.

        Raises:
          UserError: No output has the index or name.
        """
        names = self.manifest["target_names"]
        if target is None or (isinstance(target, int) and 0 <= target < len(names)):
            return target
        if isinstance(target, int) or target not in names:
            raise UserError(f"{target!r} is no output", "target", f"the outputs are {', '.join(names[:12])}")
        return int(names.index(target))


def _readable(table: pa.Table) -> pa.Table:
    """Days and times as text: Python has none beyond the year 9999, nor before our era."""
    for at, field in enumerate(table.schema):
        if pa.types.is_temporal(field.type):
            table = table.set_column(at, field.name, as_text(table.column(at)))
    return table


def _field(name: str, schema: pa.Schema) -> pc.Expression:
    """A column, or a field of one by a dotted name; the names themselves may hold dots."""
    if name in schema.names:
        return pc.field(name)
    for column in schema.names:
        kind = schema.field(column).type
        inner = name.removeprefix(f"{column}.")
        if inner != name and pa.types.is_struct(kind) and kind.get_field_index(inner) >= 0:
            return pc.field(column, inner)
    raise UserError(f"there is no column {name!r}", "attributions", f"there are {', '.join(schema.names)}")
