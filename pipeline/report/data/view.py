"""A run as the sections read it: targets in order, names in charts, features by importance and kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.report.blocks import Block, Choice, Prose
from pipeline.report.data.tables import ReportData
from pipeline.results.summaries import score_kinds
from pipeline.wording import chart_names

if TYPE_CHECKING:
    import pandas as pd

#: Most targets that a report shows one by one.
MOST_TARGETS = 12
#: Most features in a table of the page.
MOST_LISTED = 1000


@dataclass(frozen=True)
class View:
    """A run's tables as the sections read them.

    Args:
      data: The tables.
    """

    data: ReportData

    @cached_property
    def targets(self) -> dict[int, str]:
        """The targets that are shown one by one, by number, in the order of `data.targets`."""
        chosen = list(self.data.targets.items())[:MOST_TARGETS]
        return dict(chosen)

    @cached_property
    def target_names(self) -> dict[int, str]:
        """Distinct names of these targets, as the choices show them."""
        unique_names = {target: f"{name}\0{target}" for target, name in self.targets.items()}
        texts = {unique: self.targets[target] for target, unique in unique_names.items()}
        shown = chart_names(unique_names.values(), texts)
        return {target: shown[unique] for target, unique in unique_names.items()}

    @property
    def fewest(self) -> int:
        """`privacy.min_rows`: a slice, a rest or a category with fewer rows is not shown."""
        return int((self.data.manifest["config"].get("privacy") or {}).get("min_rows") or 0)

    @cached_property
    def labels(self) -> dict[str, str]:
        """Names of the features in words, by their names in the tables."""
        return {name: self.data.label(name) for name in self.data.manifest["features"]}

    @cached_property
    def names(self) -> dict[str, str]:
        """Names of the features in charts, by their names in the tables."""
        return chart_names(self.labels, self.labels)

    @cached_property
    def labelled(self) -> bool:
        """True if any feature has a label."""
        return any(name != text for name, text in self.labels.items())

    @cached_property
    def _overall(self) -> Mapping[int, pd.DataFrame]:
        frame = self.data.importance
        return _by_target(frame[frame["slice"] == ""].sort_values("rank"))

    def overall(self, target: int) -> pd.DataFrame:
        """The importance of all rows for a target, most important feature first."""
        return self._overall[target]

    def listed(self, target: int) -> pd.DataFrame:
        """The features in a table of the page, most important first, at most `MOST_LISTED`."""
        return self.overall(target).head(MOST_LISTED)

    def all_listed(self, target: int) -> str:
        """A phrase on how many features a table lists."""
        count = len(self.overall(target))
        if count <= MOST_LISTED:
            return "All features"
        return f"The {MOST_LISTED:,} most important of {count:,} features; importance.parquet has all"

    @cached_property
    def _sliced(self) -> Mapping[int, pd.DataFrame]:
        frame = self.data.importance
        return _by_target(frame[frame["slice"] != ""])

    def sliced(self, target: int) -> pd.DataFrame | None:
        """The importance of a target's slices, in the table's order; None without slices."""
        return self._sliced.get(target)

    def matters(self, target: int) -> bool:
        """True if any feature has any effect."""
        return bool(self.overall(target)["mean_abs"].max() > 0)

    @property
    def missed(self) -> bool:
        """True if φ do not sum to the score's difference, so that φ = 0 does not prove no effect."""
        manifest = self.data.manifest
        delta = manifest["quality"]["convergence_delta"]
        limit = manifest["config"]["limits"].get("convergence")
        return delta is not None and delta["relative_p99"] > (0.05 if limit is None else limit)

    def unit(self, target: int) -> str:
        """The kind of a target's score, in whose units φ is: logit, probability or output."""
        return self._score_kinds.get(target, "score")

    @cached_property
    def _score_kinds(self) -> dict[int, str]:
        return score_kinds(self.data.manifest)

    @cached_property
    def _schema(self) -> dict[str, Mapping[str, Any]]:
        return {feature["name"]: feature for feature in self.data.manifest["schema"]}

    def is_scalar(self, feature: str) -> bool:
        """True if the feature has one value in a row: it is neither a group nor a tensor."""
        return feature in self._schema and not self._schema[feature]["shape"]

    def is_numeric(self, feature: str) -> bool:
        """True if the feature's values have an order, so that more and less make sense."""
        return self.is_scalar(feature) and self._schema[feature]["kind"] == "numeric"

    def sample(self, target: int, rows: int | None = None) -> pa.Table | None:
        """The sampled rows of a target, or the first `rows` of them; None without a sample."""
        if self.data.sample is None or "attribution" not in self.data.sample.column_names:
            return None
        drawn = self._drawn(target)
        return (drawn if rows is None else drawn.slice(0, rows)) if len(drawn) else None

    @cached_property
    def _draws(self) -> dict[int, pa.Table]:
        return {}

    def _drawn(self, target: int) -> pa.Table:
        if target not in self._draws:
            self._draws[target] = self.data.drawn(target)
        return self._draws[target]

    def values_of(self, sample: pa.Table, feature: str) -> np.ndarray | None:
        """A scalar feature's values, `[N]`; None if the sample does not have them."""
        if "feature" not in sample.column_names or not self.is_scalar(feature):
            return None
        fields = sample.schema.field("feature").type
        if fields.get_field_index(feature) < 0:
            return None
        return self.data.values(sample, "feature", feature)

    def phi_of(self, sample: pa.Table, feature: str) -> np.ndarray:
        """A feature's φ, `[N]`; a tensor's φ are summed."""
        values = self.data.values(sample, "attribution", feature)
        return values.reshape(len(values), -1).sum(axis=1, dtype=np.float64)

    def by_target(
        self, make: Callable[[int], Sequence[Block]], most: int = MOST_TARGETS, mention_rest: bool = False
    ) -> list[Block]:
        """The blocks of the only target, or a choice between targets.

        Args:
          make: Makes the blocks of a target.
          most: Most targets to show.
          mention_rest: Whether to say where the other targets are, even if every section leaves them out.
        """
        targets = list(self.targets)[:most]
        if len(self.data.targets) == 1:
            return list(make(targets[0])) if targets else []
        made = {self.target_names[target]: make(target) for target in targets}
        shown: list[Block] = [Choice("Target", {name: blocks for name, blocks in made.items() if blocks})]
        if len(self.data.targets) > len(targets) and (mention_rest or len(targets) < len(self.targets)):
            more = f"The first {len(targets)} of {len(self.data.targets):,} targets are shown here"
            shown.append(Prose(f"{more}; all are in importance.parquet."))
        return shown if any(made.values()) else []


def number_axis(values: np.ndarray) -> dict[str, str]:
    """Options of an axis: a short format if values are too large or too small to write out."""
    largest = float(np.max(np.abs(values), initial=0.0))
    return {} if largest == 0 or 1e-3 <= largest < 1e6 else {"format": ".3~g"}


def rows_of(frame: pd.DataFrame) -> list[Any]:
    """The rows of a frame, columns as attributes."""
    return list(frame.itertuples())


def _by_target(frame: pd.DataFrame) -> dict[int, pd.DataFrame]:
    return {int(part["target"].iloc[0]): part for _, part in frame.groupby("target")}


def brief(value: float, digits: int = 4) -> float | None:
    """A number rounded to the digits that a chart can show; None for NaN and infinity."""
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def brief_all(values: np.ndarray, digits: int = 4) -> list[float | None]:
    """Numbers for a chart; see `brief`."""
    return [brief(float(value), digits) for value in values]


def as_word(value: Any) -> str:
    """A category as text."""
    if value is None:
        return "null"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
