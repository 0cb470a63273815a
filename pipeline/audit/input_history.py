"""Statistics of input values on each night, each compared with the nights before it.

Importance alone shows a change of the inputs late: a temperature in °C moves mean |φ| no more than weather
does. That no value of a column has been seen before shows it on the first night.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.audit.input_sample import InputSample

#: The statistics, each a share of rows.
STATISTICS = ("unseen", "far_outside", "filled", "most_common")
#: Fewest earlier nights that a night's values are compared with.
_FEWEST = 7


@dataclass(frozen=True)
class InputSeries:
    """A statistic of one feature over the nights, for each slice.

    Args:
      feature: The feature.
      statistic: The statistic; see `STATISTICS`.
      categorical: Whether the values are categories.
      slices: The names of the slices, `S`.
      shares: The share of rows, `[N + 1, S]`, oldest first and tonight last; NaN where it is unknown.
      rows: The number of sampled rows, `[N + 1, S]`.
    """

    feature: str
    statistic: str
    categorical: bool
    slices: Sequence[str]
    shares: np.ndarray
    rows: np.ndarray


def input_series(samples: Sequence[InputSample], *, window: int) -> Iterator[InputSeries]:
    """Yields the statistics of each feature of tonight's sample.

    A night's values are compared with those of up to `window` nights before it:
      unseen: The share of rows whose value none of those nights has.
      far_outside: The share of rows whose number is beyond their range by more than the range's width.
      filled: The share of rows whose value was missing and filled.
      most_common: The share of rows that have the night's most common value.

    Args:
      samples: The nights' samples, oldest first, tonight's last.
      window: Nights that a night is compared with.
    Cost: sorts the sampled values of each feature: O(rows · log rows) a feature.
    """
    slices = list(samples[-1].slices)
    rows = np.array([[_size(sample, name) for name in slices] for sample in samples], float)
    for feature in samples[-1].values:
        held = [sample.values.get(feature) for sample in samples]
        kinds = {values.dtype.kind for values in held if values is not None}
        if len(kinds) != 1:
            continue  # the type changed: the check of the features reports it
        categorical = feature in samples[-1].categorical
        nights = _Nights.of(feature, held, categorical=categorical)
        for statistic in STATISTICS:
            if statistic == "far_outside" and categorical:
                continue
            shares = [nights.shares(statistic, night, window, sample) for night, sample in enumerate(samples)]
            yield InputSeries(feature, statistic, categorical, slices, _of_slices(shares, slices), rows)


@dataclass(frozen=True)
class _Nights:
    """The values of a feature on all nights as codes.

    Args:
      feature: The feature.
      distinct: The distinct values in ascending order, `[V]`.
      codes: Each night's values as indexes of them; None where the night lacks the feature.
      seen: Whether a night has a value, `[N + 1, V]`.
      numbers: Whether the values are numbers, which have a range.
    """

    feature: str
    distinct: np.ndarray
    codes: Sequence[np.ndarray | None]
    seen: np.ndarray
    numbers: bool

    @classmethod
    def of(cls, feature: str, held: Sequence[np.ndarray | None], *, categorical: bool) -> _Nights:
        known = [values for values in held if values is not None]
        distinct, inverse = np.unique(np.concatenate(known), return_inverse=True)
        ends = np.cumsum([len(values) for values in known])[:-1]
        pieces = iter(np.split(inverse, ends))
        codes = [None if values is None else next(pieces) for values in held]
        seen = np.zeros((len(held), len(distinct)), bool)
        for night, code in enumerate(codes):
            if code is not None:
                seen[night, code] = True
        return cls(feature, distinct, codes, seen, not categorical)

    def _before(self, night: int, window: int) -> np.ndarray | None:
        """The values of the nights before one, `[V]`; None where they are too few."""
        first = max(0, night - window)
        if sum(code is not None for code in self.codes[first:night]) < _FEWEST:
            return None
        before: np.ndarray = np.any(self.seen[first:night], axis=0)
        return before

    def shares(self, statistic: str, night: int, window: int, sample: InputSample) -> dict[str, float]:
        """A statistic of a night by slice; empty where it is not known."""
        code = self.codes[night]
        if code is None:
            return {}
        if statistic == "most_common":
            return {
                name: float(np.bincount(code[member]).max() / member.sum())
                for name, member in sample.slices.items()
                if member.any()
            }
        if statistic == "filled":
            flags = _filled(sample, self.feature)
        else:
            before = self._before(night, window)
            flags = None if before is None else self._marked(statistic, code, before)
        if flags is None:
            return {}
        return {name: float(flags[member].mean()) for name, member in sample.slices.items() if member.any()}

    def _marked(self, statistic: str, code: np.ndarray, before: np.ndarray) -> np.ndarray | None:
        """Marks rows `[R]` whose value is unseen or far outside the range of the values `before`, `[V]`."""
        if statistic == "unseen":
            unseen: np.ndarray = ~before[code]
            return unseen
        numbers = self.distinct[before]
        numbers = numbers[np.isfinite(numbers)]
        if not len(numbers):
            return None
        low, high = numbers[0], numbers[-1]
        values = self.distinct[code]
        far: np.ndarray = np.logical_or(values < low - (high - low), values > high + (high - low))
        return far


def _of_slices(shares: Sequence[dict[str, float]], slices: Sequence[str]) -> np.ndarray:
    return np.array([[of_night.get(name, np.nan) for name in slices] for of_night in shares])


def _filled(sample: InputSample, feature: str) -> np.ndarray | None:
    if not sample.knows_filled:
        return None
    return sample.filled.get(feature, np.zeros(len(sample), bool))


def _size(sample: InputSample, name: str) -> int:
    member = sample.slices.get(name)
    return 0 if member is None else int(member.sum())
