"""The tables of a committed run: importance, attributions, rejected rows, and its targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from transforms.errors import UserError
from transforms.outputs.read_whole import read_whole
from transforms.outputs.run_files import IMPORTANCE
from transforms.storage import files

if TYPE_CHECKING:
    import pandas as pd

NO_TABLE = "the run holds no attributions"
KEEP = "set output.attributions: all"


class RunTables:
    """The tables of a committed run.

    Attributes:
      path: The run directory.
      manifest: The content of its manifest.json.
    """

    def __init__(self, path: str, manifest: Mapping[str, Any]) -> None:
        self.path, self.manifest = path, dict(manifest)

    @property
    def features(self) -> list[str]:
        """Names of the features and groups in the tables."""
        return list(self.manifest["features"])

    @property
    def labels(self) -> dict[str, str]:
        """Labels of features and groups by name, for those that have one in the config."""
        texts = self.manifest["config"].get("features") or {}
        return {name: text["label"] for name, text in texts.items() if text.get("label")}

    @property
    def rows_per_example(self) -> int:
        """Number of targets per example, and so of rows per example in the attributions table."""
        counts = self.manifest["counts"]
        return int(counts["attributions"] // max(counts["rows_attributed"], 1)) or 1

    @property
    def has_report(self) -> bool:
        """Whether the run has a report.html."""
        return files.exists(files.join(self.path, "report.html"))

    def table(self, file: str) -> pa.Table:
        """Reads a whole table by its path in the run directory.

        Raises:
          UserError: The table is missing or damaged.
        """
        return read_whole(files.join(self.path, file))

    def importance(self, *, slice: str | None = None, target: int | str | None = None) -> pd.DataFrame:
        """Reads the importance: all rows first, then slice by slice; the most important feature first.

        `transforms.aggregates.importance.TABLE` lists its columns and how exact they are.

        Args:
          slice: Only this slice, such as `carrier=UA`; "" is all rows. None: every slice.
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
        """Reads the attributions table, or part of it.

        Args:
          columns: Columns to read; None reads all. "attribution.distance" names a field of a struct.
          filter: Condition on the rows to read: an expression such as `pc.field("prediction") > 0`, or a list
            in pandas' form, `[("carrier", "=", "UA")]`.
        Raises:
          UserError: The run wrote no attributions, there is no such column, or the filter does not fit.
        Cost: reads the columns from all parts, except row groups in which no row can pass the filter.
        """
        dataset = self._dataset("attributions")
        if dataset is None:
            raise UserError(NO_TABLE, self.path, KEEP)
        if isinstance(columns, str):
            raise UserError(
                "columns must be a list, not a string", "attributions", f"give a list: [{columns!r}]"
            )
        chosen = None if columns is None else {name: _field(name, dataset.schema) for name in columns}
        try:
            if filter is not None and not isinstance(filter, pc.Expression):
                filter = pq.filters_to_expression(filter)
            scanner = dataset.scanner(columns=chosen, filter=filter)
        except (pa.ArrowException, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            remedy = 'write for example pc.field("prediction") > 0 or [("prediction", ">", 0)]'
            raise UserError(f"the filter does not fit the table: {reason}", "attributions", remedy) from error
        return scanner.to_table()

    def rejected(self) -> pa.Table:
        """Reads the rows that could not be explained, each with the stage and reason."""
        from transforms.outputs.layout import REJECTED

        dataset = self._dataset("rejected")
        return REJECTED.empty_table() if dataset is None else dataset.to_table()

    def parts(self, folder: str = "attributions") -> list[str]:
        """Paths of the part files in a folder of the run, in input order."""
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
            raise UserError(
                f"{target!r} is not an output", "target", f"the outputs are {', '.join(names[:12])}"
            )
        return int(names.index(target))


def _field(name: str, schema: pa.Schema) -> pc.Expression:
    """Resolves a column, or a struct's field by dotted name; column and field names may contain dots too."""
    if name in schema.names:
        return pc.field(name)
    for column in schema.names:
        kind = schema.field(column).type
        inner = name.removeprefix(f"{column}.")
        if inner != name and pa.types.is_struct(kind) and kind.get_field_index(inner) >= 0:
            return pc.field(column, inner)
    raise UserError(f"there is no column {name!r}", "attributions", f"there are {', '.join(schema.names)}")
