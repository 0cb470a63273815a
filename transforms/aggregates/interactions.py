"""Features that modulate others: hints at interactions from a sample of rows, in numpy and Arrow alone.

The part of a feature's φ that its own value explains is not an interaction, whatever the value correlates
with. So rows are grouped into cells of similar values, and within cells it is measured how much of φ the
values of another feature explain. shap's `approximate_interactions` has the same idea; here the measure is a
share of the variance of φ, corrected for chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from transforms.aggregates.sample_columns import SampleColumn, columns_of, is_held, phi_of

#: The table of interactions, one row per (target, feature, modulator).
TABLE = pa.schema(
    [
        ("target", pa.int32()),
        ("target_name", pa.string()),
        ("feature", pa.string()),
        ("modulator", pa.string()),
        ("strength", pa.float64()),
    ]
)

#: Cells are halved along numbers while both halves would have the first number of rows. Cells with fewer
#: rows than the second number are left out.
_CELL, _SMALLEST = 40, 12
#: Fewest rows for which interactions are searched for.
_FEWEST_ROWS = 100
#: The most columns for the values of one feature, and the degree of polynomials in a number.
_COLUMNS, _DEGREE = 6, 3
#: An interaction has at least this share of the variance, and this many standard deviations above chance.
_WEAKEST, _SURE = 0.01, 4.5
_SHUFFLES = 48
_KEPT, _CANDIDATES = 5, 12
_NOTHING = 1e-10
#: Fewest features per target whose modulators are searched for, even with many targets.
_LEAST = 5


def find_interactions(
    sample: pa.Table,
    attributed: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    *,
    most_features: int = 50,
    most_modulators: int = 100,
    most_targets: int = 20,
) -> pa.Table:
    """Finds which features change what another one does.

    The strength of a modulator is the share of the variance of φ of a feature that the modulator's values
    explain beyond the feature's own value and beyond stronger modulators, 0 to 1. The strengths for one
    feature sum to at most 1. Strength is corrected for chance like adjusted R². Modulators are kept if their
    strength is at least 0.01 and 4.5 standard deviations above that of shuffled rows. Weights are not used.

    Strings, and numbers with few distinct values, are categories, and a missing value is one of them. A group
    is represented by its members, and a tensor of up to eight numbers by its numbers. A longer tensor
    modulates by its mean, and its own modulators are not searched for, because other features cannot be
    separated from the rest of its numbers. Features without attributions may modulate too.

    Args:
      sample: Rows with `target`, `target_name` and the structs `attribution` and `feature`. If there is a
        column `kind`, rows of kind "sample" are used.
      attributed: Features and groups, as in `attribution`.
      groups: Members by group, as in `feature`.
      most_features: The most features whose modulators are searched for, those of the largest mean |φ|. With
        many targets there are fewer for each, about twice as many in all.
      most_modulators: The most candidates for modulators, those of the largest mean |φ|.
      most_targets: The most targets, those with the most rows.
    Returns:
      `TABLE`, with at most five modulators per feature: targets in order, then features by mean |φ|, then
      modulators by strength.
    Cost: 500 features and 1,000 rows of one target take about a second.
    """
    if "kind" in sample.column_names:
        drawn = np.array(sample["kind"].to_pylist(), object) == "sample"
        sample = sample.filter(pa.array(drawn.astype(bool)))
    if not len(sample):
        return TABLE.empty_table()
    targets = sample["target"].to_numpy()
    distinct, counts = np.unique(targets, return_counts=True)
    chosen = sorted(distinct[np.argsort(-counts, kind="stable")][:most_targets].tolist())
    each = min(most_features, max(_LEAST, 2 * most_features // len(chosen)))
    rows: list[tuple[int, str, str, str, float]] = []
    for target in chosen:
        mine = sample.filter(pa.array(targets == target))
        name = mine["target_name"][0].as_py()
        pairs = _of_target(mine, attributed, groups, each, most_modulators)
        rows += [(target, name, *pair) for pair in pairs]
    columns = list(zip(*rows, strict=True)) or [()] * len(TABLE)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, TABLE, strict=True)], TABLE
    )


def _of_target(
    sample: pa.Table,
    attributed: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    most_features: int,
    most_modulators: int,
) -> Iterable[tuple[str, str, float]]:
    """(feature, modulator, strength) of one target."""
    if len(sample) < _FEWEST_ROWS:
        return
    struct = sample["attribution"].combine_chunks()
    values = sample["feature"].combine_chunks()
    phi = {name: phi_of(struct.field(name)) for name in attributed}
    importance = {name: float(np.abs(phi[name]).sum(axis=1).mean()) for name in attributed}
    ranked = sorted(attributed, key=lambda name: -importance[name])
    members = {name: tuple(groups.get(name, (name,))) for name in ranked}
    known = {member for each in members.values() for member in each}
    others = [field.name for field in values.type if field.name not in known]
    members |= {name: (name,) for name in others if name not in members}
    names = [*ranked, *others][:most_modulators]
    columns = {
        name: [column for member in members[name] for column in columns_of(values.field(member))]
        for name in {*names, *ranked[:most_features]}
    }
    modulators = _Modulators.of([_basis(columns[name]) for name in names], len(sample))
    for name in ranked[:most_features]:
        score = phi[name].sum(axis=1)
        spread = float(((score - score.mean()) ** 2).sum())
        if spread <= _NOTHING * float((score**2).sum()) or not np.isfinite(spread):
            continue  # φ is constant: nothing modulates it
        if not all(is_held(values.field(member)) for member in members[name]):
            continue
        cells = _cells(columns[name], len(sample))
        if not cells:
            continue
        allowed = np.array([other != name for other in names])
        for at, strength in _strongest(score, columns[name], cells, modulators, allowed):
            yield name, names[at], strength


# -- values as columns of numbers ----------------------------------------------------------------------------


def _basis(columns: Sequence[SampleColumn]) -> np.ndarray:
    """Columns that represent a feature's values, `[n, ≤ 6]`, each with mean 0 and variance 1."""
    each = [_indicators(column) if column.categories else _polynomials(column.values) for column in columns]
    # The first column of every member comes before the second of any.
    turns = [part[:, at] for at in range(_COLUMNS) for part in each if at < part.shape[1]]
    if not turns:
        return np.zeros((0, 0))
    basis = np.stack(turns[:_COLUMNS], axis=1)
    basis -= basis.mean(axis=0)
    spread = basis.std(axis=0)
    return basis[:, spread > 0] / spread[spread > 0]


def _polynomials(values: np.ndarray) -> np.ndarray:
    """Legendre polynomials of the rank, which do not depend on scale and outliers."""
    place = 2 * _ranks(values) - 1
    return np.polynomial.legendre.legvander(place, _DEGREE)[:, 1:]


def _indicators(column: SampleColumn) -> np.ndarray:
    """Indicators of the most frequent categories, except the first, with which the others are compared."""
    distinct, counts = np.unique(column.values, return_counts=True)
    frequent = distinct[np.argsort(-counts, kind="stable")][1 : _COLUMNS + 1]
    return (column.values[:, None] == frequent).astype(np.float64)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks from 0 to 1; equal values have equal ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    return middle[inverse] / max(len(values) - 1, 1)


# -- cells of rows with about the same value -----------------------------------------------------------------


def _cells(columns: Sequence[SampleColumn], rows: int) -> list[np.ndarray]:
    """Cells of rows that are similar in all columns: split by category, then halved along numbers."""
    cells = [np.arange(rows)]
    for column in columns:
        if column.categories:
            cells = [part for cell in cells for part in _by_value(cell, column.values)]
    numbers = [_ranks(column.values) for column in columns if not column.categories]
    if numbers:
        ranks = np.stack(numbers, axis=1)
        cells = [part for cell in cells for part in _halved(cell, ranks)]
    return [cell for cell in cells if len(cell) >= _SMALLEST]


def _by_value(cell: np.ndarray, codes: np.ndarray) -> list[np.ndarray]:
    order = cell[np.argsort(codes[cell], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def _halved(cell: np.ndarray, ranks: np.ndarray) -> list[np.ndarray]:
    done, rest = [], [cell]
    while rest:
        cell = rest.pop()
        extent = np.ptp(ranks[cell], axis=0) if len(cell) else np.zeros(1)
        widest = int(np.argmax(extent))
        if len(cell) < 2 * _CELL or extent[widest] == 0:
            done.append(cell)
            continue
        order = cell[np.argsort(ranks[cell, widest], kind="stable")]
        along = ranks[order, widest]
        # Cut where the value changes, nearest to the middle, so that equal values stay together.
        changes = np.flatnonzero(np.diff(along)) + 1
        at = changes[np.argmin(np.abs(changes - len(order) / 2))]
        rest += [order[at:], order[:at]]
    return done


# -- strength ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Modulators:
    """The columns of J modulators, `[≤ 6, n, J]`, filled with zeros for those with fewer columns."""

    columns: np.ndarray

    @classmethod
    def of(cls, each: Sequence[np.ndarray], rows: int) -> _Modulators:
        depth = max((basis.shape[1] for basis in each), default=0)
        columns = np.zeros((depth, rows, len(each)))
        for at, basis in enumerate(each):
            columns[: basis.shape[1], :, at] = basis.T if basis.size else 0.0
        return cls(columns)

    def some(self, chosen: np.ndarray) -> _Modulators:
        return _Modulators(self.columns[:, :, chosen])

    def of_one(self, at: int) -> np.ndarray:
        """The columns of one modulator, `[n, columns]`."""
        columns = self.columns[:, :, at].T
        return columns[:, columns.any(axis=0)]


def _strongest(
    score: np.ndarray,
    own: Sequence[SampleColumn],
    cells: Sequence[np.ndarray],
    modulators: _Modulators,
    allowed: np.ndarray,
) -> Iterable[tuple[int, float]]:
    """Modulators with their strength beyond the earlier ones, strongest first."""
    numbers = [column.values for column in own if not column.categories]
    held = [_polynomial(values, 2 if len(numbers) == 1 else 1) for values in numbers]
    fixed = np.concatenate([np.ones((len(score), 1)), *held], axis=1)
    strength = _strength(score, fixed, cells, modulators)
    strength[~allowed] = 0.0
    candidates = np.argsort(-strength, kind="stable")[:_CANDIDATES]
    candidates = candidates[strength[candidates] > 0]
    left, beyond = candidates, strength[candidates]
    for _ in range(_KEPT):
        if not len(left) or beyond.max() <= 0:
            return
        best = int(np.argmax(beyond))
        yield int(left[best]), float(beyond[best])
        fixed = np.concatenate([fixed, modulators.of_one(int(left[best]))], axis=1)
        left = np.delete(left[beyond > 0], np.flatnonzero(left[beyond > 0] == left[best]))
        if len(left):
            beyond = _strength(score, fixed, cells, modulators.some(left))


def _polynomial(values: np.ndarray, degree: int) -> np.ndarray:
    """Powers of a number, or of its rank if some values are infinite."""
    place = values if np.isfinite(values).all() else _ranks(values)
    place = place / (np.abs(place).max() or 1.0)  # numbers may be close to the largest float64
    place = place - place.mean()
    place /= np.ptp(place) or 1.0
    return np.stack([place**power for power in range(1, degree + 1)], axis=1)


def _strength(
    score: np.ndarray, fixed: np.ndarray, cells: Sequence[np.ndarray], modulators: _Modulators
) -> np.ndarray:
    """Share of the variance of `score` that each modulator explains within cells, beyond `fixed`, `[J]`.

    It is 0 if it may be chance: if the corrected share is too small, or if the modulator does not explain
    clearly more of the ranks than of shuffled ranks (Wilson and Hilferty's cube root makes a sum of squares
    nearly normal).
    """
    count = modulators.columns.shape[2]
    rows = np.concatenate(cells)
    total = float(((score[rows] - score[rows].mean()) ** 2).sum())
    explained = np.zeros((_SHUFFLES + 1, count))
    corrected = np.zeros(count)
    rng = np.random.default_rng(0)
    for cell in cells:
        base = _orthonormal(fixed[cell])
        residual = score[cell] - score[cell].mean()
        residual -= base @ (base.T @ residual)
        free = len(cell) - base.shape[1]
        square = float(residual @ residual)
        if free < 3 or square <= _NOTHING * total / len(rows):
            continue
        columns, degrees = _own_part(modulators.columns[:, cell], base)
        fitted = _squares(residual[None], columns)[0]
        noise = (square - fitted) / np.maximum(free - degrees, 1)
        corrected += np.where(free - degrees >= 1, fitted - degrees * noise, 0.0)
        # The test against chance uses ranks, so that a single row with a large φ does not decide it.
        ranked = (_ranks(residual) - 0.5) * np.abs(residual).mean()
        shuffled = rng.permuted(np.tile(ranked, (_SHUFFLES, 1)), axis=1)
        sums = _squares(np.stack([ranked, *shuffled]), columns)
        # Shuffled ranks are no longer orthogonal to `base`, and so have more degrees of freedom.
        sums[1:] *= (len(cell) - 1) / free
        explained += sums
    share = np.clip(corrected / total, 0.0, 1.0) if total > 0 else np.zeros(count)
    chance, spread = explained[1:].mean(axis=0), explained[1:].std(axis=0)
    known = (chance > 0) & (spread > 0)
    chance, spread = np.where(known, chance, 1.0), np.where(known, spread, 1.0)
    tail = (spread / chance) ** 2 / 9
    sure = (np.cbrt(explained[0] / chance) - (1 - tail)) / np.sqrt(tail)
    return np.where(known & (share >= _WEAKEST) & (sure >= _SURE), share, 0.0)


def _squares(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Squared length of rows `[R, m]` projected on the columns `[K, m, J]` of each modulator, `[R, J]`."""
    projected = rows @ columns
    squares: np.ndarray = (projected**2).sum(axis=0)
    return squares


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the span of columns, the first of which is all ones."""
    centred = columns.copy()
    centred[:, 1:] -= centred[:, 1:].mean(axis=0)
    length = np.sqrt((centred**2).sum(axis=0))
    centred = centred[:, length > 0] / length[length > 0]
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, sizes > 1e-6 * sizes[0]]


def _own_part(columns: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of modulators' columns `[K, m, J]` that is orthogonal to `base`, made orthonormal.

    Returns:
      The columns, zero where nothing is left, and the number of those that are not zero, `[J]`.
    """
    before = (columns**2).sum(axis=1)
    own = columns - base @ (base.T @ columns)
    degrees = np.zeros(columns.shape[2])
    for at in range(len(own)):
        for earlier in own[:at]:
            own[at] -= earlier * (earlier * own[at]).sum(axis=0)
        square = (own[at] ** 2).sum(axis=0)
        there = square > 1e-6 * np.maximum(before[at], 1e-6)
        own[at] *= np.where(there, 1 / np.sqrt(np.where(there, square, 1.0)), 0.0)
        degrees += there
    return own, degrees
