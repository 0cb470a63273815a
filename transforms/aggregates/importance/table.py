"""The table of a run's importance."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from transforms.aggregates.importance.groups import Groups, Key
from transforms.aggregates.importance.intervals import (
    effective,
    mean_abs_interval,
    rank_intervals,
    standard_error,
)
from transforms.aggregates.importance.quantiles import LEVELS, quantiles, shape

QUANTILES = tuple(f"p{round(100 * level):02d}" for level in LEVELS)

#: One row per (slice, target, feature). All columns but `rows` are weighted if rows have weights. `std` is
#: the population's. `p05` … `p95` are inverted CDFs, accurate to 1/128 of their value over all rows and 1/64
#: in slices, and to 2^-31 of the largest |φ| that the feature has for any target; both errors are larger in
#: states of thousands of groups and features, see `WHOLE` and `SLICES`. `mean_abs_low`, `mean_abs_high`,
#: `rank_low` and `rank_high` are 95 % intervals for a single slice, target and feature; they always contain
#: the figure itself.
TABLE = pa.schema(
    [
        ("slice", pa.string()),
        ("target", pa.int32()),
        ("target_name", pa.string()),
        ("feature", pa.string()),
        ("rows", pa.int64()),
        ("mean_abs", pa.float64()),
        ("mean_abs_low", pa.float64()),
        ("mean_abs_high", pa.float64()),
        ("mean", pa.float64()),
        ("std", pa.float64()),
        ("min", pa.float64()),
        *((name, pa.float64()) for name in QUANTILES),
        ("max", pa.float64()),
        ("positive", pa.float64()),
        ("share", pa.float64()),
        ("rank", pa.int32()),
        ("rank_low", pa.int32()),
        ("rank_high", pa.int32()),
    ]
)
#: With weights, two more columns: Σw, and the effective number of rows, (Σw)² / Σw².
#: Reference of the latter: Kish 1965, Survey Sampling, sec. 11.7.
WEIGHTED = pa.schema([*TABLE, ("weight", pa.float64()), ("effective_rows", pa.float64())])

#: A number in a label, with a minus only if it is not a hyphen; or infinity at an interval's end.
_NUMBER = re.compile(r"((?:(?<![\w.)\]])-)?(?:\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|inf(?=[,)])))")


def natural(label: str) -> tuple[tuple[int, float, str], ...]:
    """A key that sorts labels with numbers by value, and null last."""
    parts = []
    for at, part in enumerate(_NUMBER.split(label)):
        # The text decides between equal numbers, such as 7 and 07.
        parts.append((0, float(part), part) if at % 2 else (1, 0.0, part))
    return ((int(label.endswith("=null")), 0.0, ""), *parts)


def table_of(
    features: Sequence[str],
    target_names: Sequence[str],
    groups: Groups,
    tops: np.ndarray,
    min_rows: int,
    schema: pa.Schema,
) -> pa.Table:
    """The table of groups: slice by slice, with the most important feature of each first.

    Args:
      features: Names of the features.
      target_names: Name of each target.
      groups: The groups; those without weight are left out.
      tops: From `tops_of`, for the features' buckets.
      min_rows: Groups with fewer rows are left out.
      schema: `TABLE` or `WEIGHTED`.
    Cost: some µs per group and feature, and the cost of `rank_intervals`.
    """
    moments, count = groups.moments, len(features)
    written = (moments.weight > 0) & (moments.rows >= min_rows)
    numbers = {key: number for key, number in groups.numbers.items() if written[number]}
    keys = sorted(numbers, key=_order)
    at = np.array([numbers[key] for key in keys], np.int64)
    moments, counts, grid = moments.at(at), groups.counts[at], groups.resolution.grid
    weight = moments.weight[:, None]
    mean_abs = moments.absolute / weight
    total = mean_abs.sum(axis=1, keepdims=True)
    # Equally important features stay in their order.
    order = np.argsort(-mean_abs, axis=1, kind="stable")
    low, high = mean_abs_interval(moments, *shape(counts, grid))
    rank_low, rank_high = rank_intervals(
        mean_abs, standard_error(moments), groups.row_weights[at], groups.row_sums[at]
    )
    stats = {
        "mean_abs": mean_abs,
        "mean_abs_low": low,
        "mean_abs_high": high,
        "mean": moments.mean,
        "std": np.sqrt(moments.m2 / weight),
        "min": moments.low,
        "max": moments.high,
        "positive": moments.positive / weight,
        "share": mean_abs / np.where(total > 0, total, 1.0),
        "rank_low": rank_low,
        "rank_high": rank_high,
    }
    stats |= dict(zip(QUANTILES, quantiles(counts, grid, tops, moments.low, moments.high), strict=True))
    targets = np.repeat(np.array([target for _, _, target in keys], np.int32), count)
    columns = {
        "slice": pa.array([label for _, label, _ in keys], pa.string()).take(
            pa.array(np.repeat(np.arange(len(keys)), count))
        ),
        "target": targets,
        "target_name": pa.array(list(target_names), pa.string()).take(pa.array(targets)),
        "feature": pa.array(list(features), pa.string()).take(pa.array(order.reshape(-1))),
        "rows": np.repeat(moments.rows.astype(np.int64), count),
        "rank": np.tile(np.arange(1, count + 1, dtype=np.int32), len(keys)),
        "weight": np.repeat(moments.weight, count),
        "effective_rows": np.repeat(effective(moments.weight, moments.weight2), count),
    }
    for name, value in stats.items():
        columns[name] = np.take_along_axis(value, order, axis=1).reshape(-1)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _order(key: Key) -> tuple[str, tuple[tuple[int, float, str], ...], str, int]:
    slicing, label, target = key
    return slicing, natural(label), label, target
