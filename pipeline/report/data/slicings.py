"""The slicing that a slice belongs to, and the columns that it is made of, by its label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def slicing_of(label: str, slicings: Sequence[Any]) -> str:
    """The slicing that a slice belongs to: `carrier` for `carrier=UA`.

    Args:
      label: The slice's label; the label of an intersection joins those of its parts with ` & `.
      slicings: The config's `input.slices`.
    """
    if label in slicings:  # a condition
        return label
    parts = label.split(" & ")
    if len(parts) > 1 and any(isinstance(slicing, list) for slicing in slicings):
        inner = [item for slicing in slicings if isinstance(slicing, list) for item in slicing]
        return " & ".join(slicing_of(part, inner) for part in parts)
    # The = in >= or == is no separator.
    return re.split(r"(?<![<>=!])=(?!=)", label, maxsplit=1)[0].strip() or label


def by_itself(tested: pd.DataFrame, manifest: Mapping[str, Any]) -> np.ndarray:
    """Marks comparisons of a feature in slices of its own values, where it trivially differs.

    Args:
      tested: The result of `differences`.
      manifest: The run's manifest.
    """
    columns = {item["name"]: item["columns"] for item in manifest.get("slices") or []}
    block = manifest["config"]["input"]
    asked, groups = block.get("slices") or [], block.get("groups") or {}
    columns_of = {label: set(columns.get(slicing_of(label, asked), ())) for label in tested["slice"].unique()}
    pairs = zip(tested["slice"], tested["feature"], strict=True)
    own = [not columns_of[label].isdisjoint([name, *groups.get(name, ())]) for label, name in pairs]
    return np.array(own, bool)
