"""The tables that a report is drawn from: a run's aggregates and its sample of rows, never all rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.results.run import Run
from pipeline.results.summaries import rejected_by_reason
from transforms.arrow.nested import as_tensor
from transforms.outputs.run_files import INTERACTIONS, POSITIONS, SAMPLE
from transforms.storage import files

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ReportData:
    """The tables of a run that its report shows.

    Args:
      manifest: The run's manifest.
      importance: The result of `Run.importance`.
      sample: The rows of `report/sample.parquet`; None if the run kept none.
      positions: The rows of `report/positions.parquet`; None if no feature is a tensor.
      interactions: The rows of `report/interactions.parquet`; None without a sample.
      rejected: Rows rejected by reason, most frequent first.
    """

    manifest: Mapping[str, Any]
    importance: pd.DataFrame
    sample: pa.Table | None
    positions: pa.Table | None
    interactions: pa.Table | None
    rejected: Mapping[str, int]

    @classmethod
    def load(cls, run: Run) -> ReportData:
        """Reads the tables that a report needs.

        Cost: the importance, the sample and the rejected rows' reasons; no attributions.
        """

        def table(name: str) -> pa.Table | None:
            return run.table(name) if files.exists(files.join(run.path, name)) else None

        return cls(
            manifest=run.manifest,
            importance=run.importance(),
            sample=table(SAMPLE),
            positions=table(POSITIONS),
            interactions=table(INTERACTIONS),
            rejected=rejected_by_reason(run),
        )

    def label(self, feature: str) -> str:
        """A feature's name in words: the config's label, or else the name in the tables."""
        texts = self.manifest["config"].get("features") or {}
        return str((texts.get(feature) or {}).get("label") or feature)

    @cached_property
    def features(self) -> list[str]:
        """Features and groups of the sampled rows; in wide tables only the most important ones."""
        names: list[str] = list(self.manifest["features"])
        if self.sample is None or "attribution" not in self.sample.column_names:
            return names
        struct = self.sample.schema.field("attribution").type
        kept = {struct.field(at).name for at in range(struct.num_fields)}
        return [name for name in names if name in kept]

    @property
    def targets(self) -> dict[int, str]:
        """Names of the targets in the importance, by index; those with the most rows first."""
        rows = self.importance[self.importance["slice"] == ""].drop_duplicates("target")
        rows = rows.sort_values(["rows", "target"], ascending=[False, True])
        return dict(zip(rows["target"].tolist(), rows["target_name"].tolist(), strict=True))

    def drawn(self, target: int, kind: str = "sample") -> pa.Table:
        """Sampled rows of a target and kind: drawn at random, or with the largest or smallest scores."""
        if self.sample is None:
            raise ValueError("the run kept no sample")
        rows = zip(self.sample["target"].to_pylist(), self.sample["kind"].to_pylist(), strict=True)
        chosen = [place for place, row in enumerate(rows) if row == (target, kind)]
        return self.sample.take(pa.array(chosen, pa.int64()))

    @staticmethod
    def values(rows: pa.Table, column: str, name: str) -> np.ndarray:
        """A field of the struct `attribution` or `feature`, `[N, *shape]`; strings as objects."""
        chunks = rows[column]
        # Combining the chunks copies the whole struct, which may be wide: only where there are several.
        struct = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
        return as_tensor(struct.field(name))
