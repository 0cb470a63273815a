"""The scale of a run's convergence deltas, for its manifest and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transforms.rows.baselines.artifact import Artifact

SPREAD, DISTANCE, NOTHING = "spread", "distance", "nothing"


def scale_of(artifact: Artifact, targets: Sequence[int] | None) -> tuple[str, int]:
    """The kind of scale that a run has, and the number of its targets whose score does not vary.

    Args:
      artifact: The run's baseline with its scores.
      targets: The targets that are explained; None for all.
    """
    spread = artifact.spread
    yardstick = spread if artifact.yardstick is None else artifact.yardstick
    if targets is not None:
        spread, yardstick = spread[list(targets)], yardstick[list(targets)]
    flat = int((spread == 0).sum())
    if not np.any(yardstick):
        return NOTHING, flat
    return (DISTANCE if (yardstick > spread).any() else SPREAD), flat


def share_in_words(manifest: Mapping[str, Any], share: str) -> str:
    """The size of a delta in words: "is 2 % of the score's spread", or of another scale.

    Args:
      manifest: The run's manifest, or its draft.
      share: The delta, relative to the scale, in words.
    """
    baseline = manifest["baseline"]
    measured_by = baseline.get("measured_by", SPREAD)
    if measured_by == SPREAD:
        return f"is {share} of the score's spread"
    if measured_by == NOTHING:
        return "cannot be measured: the score's spread is 0, and all rows looked at have the base value"
    if baseline.get("flat_targets"):
        return f"is {share} of the distance from the base value to the score, whose spread is 0"
    return f"is {share} of the score's spread around the base value"
