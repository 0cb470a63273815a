"""Statistics of input values on each night, each compared with the nights before it.

Importance alone shows a change of the inputs late: a temperature in °C moves mean |φ| no more than weather
does. That no value of a column has been seen before shows it on the first night.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.audit.input_sample import InputSample

#: The statistics, each a share of rows.
STATISTICS = ("unseen", "far_outside", "most_common")
#: Fewest earlier nights that a night's values are compared with.
_FEWEST = 7
#: A statistic's shares of rows `[S]` in the order of the sample's slices, by (feature, statistic).
Shares = Mapping[tuple[str, str], np.ndarray]


@dataclass(frozen=True)
class InputSeries:
    """A statistic of one feature over the nights, for each slice.

    Args:
      feature: The feature.
      statistic: The statistic; see `STATISTICS`.
      categorical: Whether the values are categories.
      slices: The names of tonight's slices, `S`.
      shares: The share of rows, `[N + 1, S]`, oldest first and tonight last; NaN where it is unknown.
      rows: The number of sampled rows, `[N + 1, S]`.
    """

    feature: str
    statistic: str
    categorical: bool
    slices: Sequence[str]
    shares: np.ndarray
    rows: np.ndarray


def shares_of_night(sample: InputSample, before: Sequence[InputSample]) -> dict[tuple[str, str], np.ndarray]:
    """The statistics of a night's sampled values, compared with the nights before it.

      unseen: The share of rows whose value none of those nights has.
      far_outside: The share of rows whose number is beyond their range by more than the range's width.
      most_common: The share of rows that have the night's most common value.

    Args:
      sample: The night's sample.
      before: The samples of the nights before, of which seven at least are needed for the first two.
    Returns:
      The shares by (feature, statistic); one that is not known is absent.
    Cost: sorts the sampled values once a night: O(rows · log rows) per feature.
    """
    shares: dict[tuple[str, str], np.ndarray] = {}
    for feature, (values, codes) in sample.distinct.items():
        shares[feature, "most_common"] = _most_common(sample, codes, len(values))
        known = [
            other.distinct[feature][0]
            for other in before
            if feature in other.distinct and other.distinct[feature][0].dtype.kind == values.dtype.kind
        ]
        if len(known) < _FEWEST:
            continue
        shares[feature, "unseen"] = sample.share(~np.isin(values, np.concatenate(known))[codes])
        if feature not in sample.categorical:
            ends = [(numbers[0], numbers[-1]) for numbers in map(_finite, known) if len(numbers)]
            if ends:
                low, high = min(end[0] for end in ends), max(end[1] for end in ends)
                far = (values < low - (high - low)) | (values > high + (high - low))
                shares[feature, "far_outside"] = sample.share(far[codes])
    return shares


def input_series(samples: Sequence[InputSample], shares: Sequence[Shares]) -> Iterator[InputSeries]:
    """Yields each statistic of tonight's features over the nights.

    Args:
      samples: The nights' samples, oldest first, tonight's last.
      shares: `shares_of_night` of each.
    """
    tonight = samples[-1]
    slices = tonight.names
    rows = np.stack([sample.in_order(sample.rows.astype(float), slices, 0.0) for sample in samples])
    for feature, statistic in shares[-1]:
        values = [
            sample.in_order(of_night[feature, statistic], slices, np.nan)
            if (feature, statistic) in of_night
            else np.full(len(slices), np.nan)
            for sample, of_night in zip(samples, shares, strict=True)
        ]
        categorical = feature in tonight.categorical
        yield InputSeries(feature, statistic, categorical, slices, np.stack(values), rows)


def one_value_a_night(samples: Sequence[InputSample]) -> frozenset[str]:
    """The features that have one value in each night for most nights, such as the month.

    Such a value changes between nights by its nature.
    """
    counts: dict[str, int] = {}
    for sample in samples:
        for feature, (values, _) in sample.distinct.items():
            counts[feature] = counts.get(feature, 0) + (len(values) == 1)
    return frozenset(feature for feature, count in counts.items() if count > len(samples) / 2)


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _most_common(sample: InputSample, codes: np.ndarray, distinct: int) -> np.ndarray:
    """The share of each slice's rows that have the slice's most common value, `[S]`."""
    shares = np.full(len(sample.names), np.nan)
    for at, member in enumerate(sample.member):
        inside = codes[member]
        if len(inside):
            shares[at] = np.bincount(inside, minlength=distinct).max() / len(inside)
    return shares
