"""A committed run as tables: importance, attributions, and a shap.Explanation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.manifest import read_manifest
from transforms import files
from transforms.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def load_run(path: str | os.PathLike[str]) -> Run:
    """Opens a committed run.

    Args:
      path: Its directory, or a Beam filesystem URL of one.
    Raises:
      UserError: There is no committed run.
    """
    run = os.fspath(path)
    manifest = read_manifest(run)
    if manifest is None:
        begun = files.exists(files.join(run, "_work"))
        what = "the run is not committed: it did not finish" if begun else "there is no run"
        raise UserError(what, run, "explain again with the same command" if begun else "check the path")
    return Run(run, manifest)


class Run:
    """The tables of a committed run.

    Attributes:
      path: Its directory.
      manifest: What it was.
    """

    def __init__(self, path: str, manifest: Mapping[str, Any]) -> None:
        self.path, self.manifest = path, dict(manifest)

    def __repr__(self) -> str:
        counts = self.manifest["counts"]
        return f"Run({self.path!r}, rows={counts['rows_attributed']}, method={self.manifest['config']['method']['name']})"

    @property
    def features(self) -> list[str]:
        """Names in the tables."""
        return list(self.manifest["features"])

    def importance(self, *, slice: str | None = None, target: int | str | None = None) -> pd.DataFrame:
        """Global importance, most important first.

        Args:
          slice: Only this slice, `column=value`; "" is all rows. None: everything.
          target: Only this output, by index or name.
        """
        table = _read_table(files.join(self.path, "importance.parquet"))
        frame: pd.DataFrame = table.to_pandas()
        if slice is not None:
            frame = frame[frame["slice"] == slice]
        if target is not None:
            frame = frame[frame["target" if isinstance(target, int) else "target_name"] == target]
        return frame.reset_index(drop=True)

    def attributions(
        self, columns: Sequence[str] | None = None, filter: pc.Expression | None = None
    ) -> pa.Table:
        """The attributions table, or part of it.

        Args:
          columns: Some columns; fields by a dotted name such as "attribution.distance".
          filter: Which rows, such as `pc.field("prediction") > 0`.
        Raises:
          UserError: The run wrote no attributions.
        Cost: reads the columns asked for of all parts; rows outside the filter are skipped by row group.
        """
        dataset = self._dataset("attributions")
        if dataset is None:
            raise UserError("the run holds no attributions", self.path, "set output.attributions: all")
        if columns is None:
            return dataset.to_table(filter=filter)
        wanted = {name: pc.field(*name.split(".")) if name not in dataset.schema.names else pc.field(name) for name in columns}
        return dataset.to_table(columns=wanted, filter=filter)

    def rejected(self) -> pa.Table:
        """Rows that could not be explained, with stage and reason."""
        from transforms.write import REJECTED

        dataset = self._dataset("rejected")
        return REJECTED.empty_table() if dataset is None else dataset.to_table()

    def explanation(self, rows: int | None = 1000, *, target: int | str | None = None, seed: int = 0) -> Any:
        """A shap.Explanation of some rows: every shap.plots.* works on it.

        Features that are tensors are taken apart into `name[index]`. Feature values come from the table where the run
        wrote them (`output.features: true`), else from the input files.

        Args:
          rows: At random without replacement, in the table's order; None: all.
          target: Output by index or name; needed where the table holds several.
          seed: Of the draw.
        Raises:
          UserError: No attributions in full, several targets and none given, or the input is gone.
        """
        from pipeline.explanation import make_explanation

        return make_explanation(self, rows, target, seed)

    def parts(self, folder: str = "attributions") -> list[str]:
        """Part files, in the input's order."""
        base = files.join(self.path, folder)
        return [files.join(base, name) for name in files.list_dir(base) if name.endswith(".parquet")]

    def _dataset(self, folder: str) -> Any:
        parts = self.parts(folder)
        if not parts:
            return None
        if not files.is_url(self.path):
            return ds.dataset(parts, format="parquet")
        return ds.dataset([files.local_copy(part) for part in parts], format="parquet")

    def find(self, example_id: str) -> pa.Table:
        """The rows of one example, one a target.

        Raises:
          UserError: No such example, or it was rejected; the line says why.
        """
        dataset = self._dataset("attributions")
        if dataset is None:
            raise UserError("the run holds no attributions", self.path, "set output.attributions: all")
        found = dataset.to_table(filter=pc.field("example_id") == example_id)
        if len(found):
            return found
        rejected = self.rejected()
        reasons = rejected.filter(pc.equal(rejected["example_id"], example_id))["reason"].to_pylist()
        if reasons:
            raise UserError(f"example {example_id!r} was rejected: {reasons[0]}", self.path)
        some = dataset.head(3, columns=["example_id"])["example_id"].to_pylist()
        raise UserError(f"there is no example {example_id!r}", self.path, f"its ids are like {', '.join(some)}")

    def target_index(self, target: int | str | None) -> int | None:
        """The index of a target given by index or name.

        Raises:
          UserError: No output has the name.
        """
        if target is None or isinstance(target, int):
            return target
        names = self.manifest["target_names"]
        if target not in names:
            raise UserError(f"{target!r} is no output", "target", f"the outputs are {', '.join(names[:12])}")
        return int(names.index(target))


def _read_table(path: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(files.read_bytes(path)))


def draw(total: int, rows: int | None, seed: int) -> np.ndarray:
    """Positions of a random sample without replacement, sorted."""
    if rows is None or rows >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, rows, replace=False))
