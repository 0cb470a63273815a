"""A comparison as one JSON object, with its headline."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.compare.sentences import headline

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.compare.comparison import Comparison

#: Changes within slices that the object lists, largest first.
_MOST_SLICE_CHANGES = 500


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Builds the object that `compare --json` prints, with the 500 largest changes within slices."""
    return {
        "summary": headline(comparison),
        "first": asdict(comparison.first),
        "second": asdict(comparison.second),
        "setting": asdict(comparison.setting),
        "targets": {
            "compared": dict(comparison.targets),
            "only_first": list(comparison.only_first),
            "only_second": list(comparison.only_second),
            "units": {name: list(pair) for name, pair in comparison.units.items()},
        },
        "incomparable": comparison.incomparable,
        "features": _records(comparison.features),
        "slices": {
            "compared": _records(comparison.by_slice),
            "changes": _records(comparison.slices.head(_MOST_SLICE_CHANGES)),
            "only_first": list(comparison.slices_gone),
            "only_second": list(comparison.slices_new),
        },
        "predictions": [asdict(each) for each in comparison.predictions],
        "baselines": [asdict(each) for each in comparison.baselines],
        "bins": {name: [list(edges) for edges in pair] for name, pair in comparison.edges.items()},
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a frame as dictionaries of Python values."""
    return [
        {str(key): value.item() if isinstance(value, np.generic) else value for key, value in row.items()}
        for row in frame.to_dict("records")
    ]
