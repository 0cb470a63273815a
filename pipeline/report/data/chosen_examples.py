"""The single rows that a report shows: largest and smallest score, the most typical, the most surprising."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from pipeline.report.data.sampled_rows import SampledRows
from pipeline.wording import number

#: Fewest rows of a sample from which the usual φ can be computed.
_USUAL = 5
#: A feature's scale is at least this share of the largest: a feature that hardly matters is no surprise.
_LEAST_SCALE = 0.1


@dataclass(frozen=True)
class Pick:
    """An example that the report shows.

    Args:
      name: largest | smallest | typical | surprising.
      title: The name in words.
      rows: The rows that the example is one of.
      row: The example's position among the rows.
      why: The rule that chose the example, in a sentence.
    """

    name: str
    title: str
    rows: SampledRows
    row: int
    why: str


def picks(rows_of: Mapping[str, SampledRows], target: str = "") -> list[Pick]:
    """Chooses the examples of a target.

    Args:
      rows_of: The target's rows in the sample by kind: "sample", "largest", "smallest".
      target: The target's name if there are several; otherwise empty.
    """
    sample, chosen = rows_of["sample"], []
    among = f"of all rows explained for {target}" if target else "of all rows"
    largest = rows_of["largest"] if len(rows_of["largest"]) else sample
    if len(largest):
        row = int(np.argmax(largest.prediction))
        chosen.append(Pick("largest", "Largest score", largest, row, f"It has the largest score {among}."))
    smallest = rows_of["smallest"] if len(rows_of["smallest"]) else sample
    if len(smallest):
        row = int(np.argmin(smallest.prediction))
        chosen.append(
            Pick("smallest", "Smallest score", smallest, row, f"It has the smallest score {among}.")
        )
    if len(sample) >= _USUAL and sample.phi.shape[1]:
        distance = distances(sample.phi)
        rows = f"{len(sample):,} rows drawn at random"
        scale = "each feature measured in its own usual spread"
        near, far = int(np.argmin(distance)), int(np.argmax(distance))
        chosen += [
            Pick("typical", "Typical", sample, near, f"Of {rows}, it is nearest to their median φ, {scale}."),
            Pick(
                "surprising",
                "Most surprising",
                sample,
                far,
                f"Of {rows}, it is farthest from their median φ, {scale}: "
                f"{number(distance[far], 3)} away, while half of the rows are within "
                f"{number(float(np.median(distance)), 3)}.",
            ),
        ]
    return chosen


def distances(phi: np.ndarray) -> np.ndarray:
    """Distances of rows from what is usual, `[N]`: Euclidean, from the median φ, in robust scales.

    A feature's scale is the larger of its median and its mean absolute deviation from the median, each times
    the factor that makes it the standard deviation of normal values. The median deviation alone would be 0
    for a feature that is 0 in most rows. No scale is less than a tenth of the largest.

    Args:
      phi: `[N, features]`.
    """
    away = np.abs(phi - np.median(phi, axis=0))
    scale = np.maximum(1.4826 * np.median(away, axis=0), 1.2533 * away.mean(axis=0))
    scale = np.maximum(scale, _LEAST_SCALE * scale.max(initial=0.0))
    shares = np.divide(away, scale, out=np.zeros_like(away), where=scale > 0)
    far: np.ndarray = np.sqrt((shares**2).sum(axis=1))
    return far


def gallery(drawn: Mapping[int, Mapping[str, SampledRows]], most: int) -> list[tuple[int, SampledRows]]:
    """Chooses examples for a gallery. Targets take turns with their largest, smallest and other scores.

    Args:
      drawn: Rows by target and kind.
      most: Most examples in all.
    Returns:
      Targets with one row each, grouped by target, largest score first.
    """
    turns: list[list[tuple[int, SampledRows]]] = []
    for target, rows_of in drawn.items():
        mine: list[tuple[int, SampledRows]] = []
        seen: set[str] = set()
        ordered = [
            (rows_of["largest"], np.argsort(-rows_of["largest"].prediction, kind="stable")),
            (rows_of["smallest"], np.argsort(rows_of["smallest"].prediction, kind="stable")),
            (rows_of["sample"], np.arange(min(most, len(rows_of["sample"])))),
        ]
        for rows, order in ordered:
            ids = rows.ids()
            for row in order[:most]:
                if ids[row] not in seen:
                    seen.add(ids[row])
                    mine.append((target, rows.take([row])))
        turns.append(mine)
    turns_taken = [one for turn in zip_longest(*turns) for one in turn if one is not None][:most]
    return sorted(turns_taken, key=lambda one: (list(drawn).index(one[0]), -one[1].prediction[0]))
