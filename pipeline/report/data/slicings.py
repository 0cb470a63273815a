"""Which slicing a slice is of, and what it is made of, by its label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def slicing_of(label: str, slicings: Sequence[Any]) -> str:
    """The slicing that a slice is of, by its label: `carrier` of `carrier=UA`.

    Args:
      label: Of the slice; of an intersection, the labels of its parts between ` & `.
      slicings: The config's `input.slices`.
    """
    if label in slicings:  # an expression
        return label
    parts = label.split(" & ")
    if len(parts) > 1 and any(isinstance(slicing, list) for slicing in slicings):
        inner = [item for slicing in slicings if isinstance(slicing, list) for item in slicing]
        return " & ".join(slicing_of(part, inner) for part in parts)
    # The = of >= is none.
    return re.split(r"(?<![<>=!])=(?!=)", label, maxsplit=1)[0].strip() or label


def by_itself(found: pd.DataFrame, manifest: Mapping[str, Any]) -> np.ndarray:
    """Which comparisons are of a feature in slices of its own values, where it differs as a matter of course.

    Args:
      found: As `differences` gives it.
      manifest: Of the run.
    """
    columns = {item["name"]: item["columns"] for item in manifest.get("slices") or []}
    block = manifest["config"]["input"]
    asked, groups = block.get("slices") or [], block.get("groups") or {}
    of = {label: set(columns.get(slicing_of(label, asked), ())) for label in found["slice"].unique()}
    pairs = zip(found["slice"], found["feature"], strict=True)
    return np.array([not of[label].isdisjoint([name, *groups.get(name, ())]) for label, name in pairs], bool)
