"""Which single rows the report shows: the largest and smallest score, what is usual and what surprises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from pipeline.report.data.sampled_rows import Drawn
from pipeline.wording import number

#: Fewer rows say nothing of what is usual.
_USUAL = 5
#: A feature's scale is this share of the largest one at least: what hardly matters surprises nobody.
_LEAST_SCALE = 0.1


@dataclass(frozen=True)
class Pick:
    """An example that is shown.

    Args:
      name: largest | smallest | typical | surprising.
      title: In words.
      rows: That it is one of.
      row: Which.
      why: How it was found, in a sentence.
    """

    name: str
    title: str
    rows: Drawn
    row: int
    why: str


def picks(of: Mapping[str, Drawn], target: str = "") -> list[Pick]:
    """The examples of a target that are shown.

    Args:
      of: The sample's rows of the target by kind.
      target: What it is called, where there are several.
    """
    sample, found = of["sample"], []
    among = f"of all rows explained for {target}" if target else "of all rows"
    largest = of["largest"] if len(of["largest"]) else sample
    if len(largest):
        row = int(np.argmax(largest.prediction))
        found.append(Pick("largest", "Largest score", largest, row, f"It has the largest score {among}."))
    smallest = of["smallest"] if len(of["smallest"]) else sample
    if len(smallest):
        row = int(np.argmin(smallest.prediction))
        found.append(Pick("smallest", "Smallest score", smallest, row, f"It has the smallest score {among}."))
    if len(sample) >= _USUAL and sample.phi.shape[1]:
        distance = distances(sample.phi)
        rows = f"{len(sample):,} rows drawn at random"
        scale = "each feature measured in its own usual spread"
        near, far = int(np.argmin(distance)), int(np.argmax(distance))
        found += [
            Pick("typical", "Typical", sample, near, f"Of {rows} it is nearest to their median φ, {scale}."),
            Pick(
                "surprising",
                "Most surprising",
                sample,
                far,
                f"Of {rows} it is farthest from their median φ, {scale}: "
                f"{number(distance[far], 3)} away, where half of the rows are within "
                f"{number(float(np.median(distance)), 3)}.",
            ),
        ]
    return found


def distances(phi: np.ndarray) -> np.ndarray:
    """How far each row's φ are from what is usual, `[N]`: Euclid's distance from the median in robust scales.

    A feature's scale is the larger of its median and its mean absolute deviation from the median, both such
    that they are the standard deviation of normal values; the mean one because a feature that is mostly
    silent has a median deviation of 0. No scale is less than a tenth of the largest.

    Args:
      phi: `[N, features]`.
    """
    away = np.abs(phi - np.median(phi, axis=0))
    scale = np.maximum(1.4826 * np.median(away, axis=0), 1.2533 * away.mean(axis=0))
    scale = np.maximum(scale, _LEAST_SCALE * scale.max(initial=0.0))
    shares = np.divide(away, scale, out=np.zeros_like(away), where=scale > 0)
    found: np.ndarray = np.sqrt((shares**2).sum(axis=1))
    return found


def gallery(drawn: Mapping[int, Mapping[str, Drawn]], most: int) -> list[tuple[int, Drawn]]:
    """Examples to show, one row each: by turns of the targets, the largest scores, the smallest, any."""
    turns: list[list[tuple[int, Drawn]]] = []
    for target, of in drawn.items():
        mine: list[tuple[int, Drawn]] = []
        seen: set[str] = set()
        ordered = [
            (of["largest"], np.argsort(-of["largest"].prediction, kind="stable")),
            (of["smallest"], np.argsort(of["smallest"].prediction, kind="stable")),
            (of["sample"], np.arange(min(most, len(of["sample"])))),
        ]
        for rows, order in ordered:
            ids = rows.ids()
            for row in order[:most]:
                if ids[row] not in seen:
                    seen.add(ids[row])
                    mine.append((target, rows.take([row])))
        turns.append(mine)
    found = [one for turn in zip_longest(*turns) for one in turn if one is not None][:most]
    return sorted(found, key=lambda one: (list(drawn).index(one[0]), -one[1].prediction[0]))
