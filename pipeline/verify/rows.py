"""Explains rows drawn at random again, and compares them with a run's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.execution.manifest import versions
from pipeline.planning.plan import Plan
from pipeline.verify.difference import difference, same_bits
from pipeline.verify.parts import Check
from transforms.outputs.attributions import attribution_table
from transforms.outputs.layout import attribution_schema
from transforms.outputs.read_whole import read_whole
from transforms.outputs.run_files import part_name
from transforms.rows.decode import Rows, join
from transforms.sources.base import PARQUET, Piece, Rejection, Shard
from transforms.storage import files
from transforms.worker.batch import explain_rows
from transforms.worker.runtime import Runtime, runtime
from transforms.worker.shard import read_batches

#: Rows this close to each other are read together with those between them.
_NEAR = 256
_READ = 1024


@dataclass(frozen=True)
class _Place:
    """The place of a drawn row in the input and in the tables.

    Args:
      ordinal: The row's number in the whole input.
      shard: Number of its shard.
      piece: The piece of the shard that holds it.
      row: The row's number in the file.
      before: Number of rejected rows before it in its shard.
      position: Its number in its shard.
      stage: The stage at which it was rejected; None if it was explained.
    """

    ordinal: int
    shard: int
    piece: Piece
    row: int
    before: int
    position: int
    stage: str | None

    @property
    def in_words(self) -> str:
        return f"row {self.row} of {self.piece.name}"


@dataclass
class _Tally:
    """Counts of rows by how well they agree."""

    exact: int = 0
    near: int = 0
    rejected: int = 0
    largest: float = 0.0
    problems: list[str] = field(default_factory=list)


def check_rows(
    run: str,
    manifest: Mapping[str, Any],
    plan: Plan,
    unsound: frozenset[str],
    rows: int,
    seed: int,
    tolerance: float,
) -> tuple[Check, dict[str, Any]]:
    """Explains rows drawn at random from the whole input again, and compares them with the run.

    Rows are found in the parts by their position, because ids may repeat.

    Args:
      run: The run directory.
      manifest: The run's manifest.
      plan: A new plan of the same model, input and baseline.
      unsound: Files of the run that have changed.
      rows: Number of rows to draw; all rows if there are fewer.
      seed: Seed of the draw.
      tolerance: Largest difference, relative to the larger of the row's largest |φ| and the score's spread.
        A score far from 0 may also differ in its last four bits.
    Returns:
      The check, and the drawn rows with their agreement for `--json`.
    """
    if plan.spec.output.attributions == "none":
        return Check("rows", None, "not compared: the run keeps no attributions (attributions: none)"), {}
    number = min(rows, plan.rows)
    drawn = np.sort(np.random.default_rng(seed).choice(plan.rows, number, replace=False))
    places, broken = _places(run, plan, drawn, unsound)
    if broken:
        return Check("rows", None, broken), {}
    sound = [p for p in places if f"attributions/{part_name(p.shard)}" not in unsound]
    tally = _compare(run, plan, sound, tolerance)
    report: dict[str, Any] = {
        "drawn": [{"file": p.piece.name, "row": p.row} for p in places],
        "compared": len(sound),
        "identical": tally.exact,
        "within_tolerance": tally.near,
        "rejected_again": tally.rejected,
        "largest_difference": tally.largest,
        "tolerance": tolerance,
    }
    return _judged(manifest, tally, len(places), len(sound), seed), report


def _judged(manifest: Mapping[str, Any], tally: _Tally, drawn: int, compared: int, seed: int) -> Check:
    parts = [f"{drawn:,} drawn with --seed {seed}: {tally.exact:,} agree bit for bit"]
    if tally.near:
        parts.append(
            f"{tally.near:,} to within {tally.largest:.1g} of max(|φ|, the score's spread)"
            if not tally.problems
            else f"{tally.near:,} within the tolerance"
        )
    if tally.rejected:
        parts.append(f"{tally.rejected:,} rejected again")
    if compared < drawn:
        parts.append(f"{drawn - compared:,} lie in parts that have changed")
    statement = ", ".join(parts)
    if not tally.problems:
        return Check("rows", True if compared == drawn else None, statement)
    changed = [
        f"{name} was {manifest['versions'].get(name)} and is {version}"
        for name, version in versions().items()
        if manifest["versions"].get(name, version) != version
    ]
    more = (f"other versions: {', '.join(changed)}",) if changed else ()
    return Check("rows", False, f"{statement}, {len(tally.problems):,} DIFFER", (*tally.problems, *more))


def _places(
    run: str, plan: Plan, drawn: np.ndarray, unsound: frozenset[str]
) -> tuple[list[_Place], str | None]:
    """The places of the drawn rows, or the reason why they cannot be found."""
    starts = np.cumsum([0, *(shard.rows for shard in plan.shards)])
    places = []
    for number in np.unique(np.searchsorted(starts, drawn, "right") - 1):
        shard, name = plan.shards[number], part_name(plan.shards[number].index)
        if f"rejected/{name}" in unsound:
            return [], f"not compared: rejected/{name} has changed"
        refused = _refused(run, shard)
        held = _part_rows(run, shard.index) if f"attributions/{name}" not in unsound else None
        whole = shard.rows - len(refused)
        if held is not None and (held % whole if whole else held):
            return (
                [],
                f"not compared: attributions/{name} does not match the rows of its shard, {shard.rows} rows",
            )
        at_refused = np.array(sorted(refused), np.int64)
        mine = drawn[(drawn >= starts[number]) & (drawn < starts[number + 1])] - starts[number]
        for at in mine.tolist():
            piece, row = _in_pieces(shard, at)
            before = int(np.searchsorted(at_refused, at))
            ordinal = int(starts[number]) + at
            places.append(_Place(ordinal, shard.index, piece, row, before, at, refused.get(at)))
    return places, None


def _in_pieces(shard: Shard, offset: int) -> tuple[Piece, int]:
    for piece in shard.pieces:
        if offset < piece.rows:
            return piece, piece.start + offset
        offset -= piece.rows
    raise ValueError(f"shard {shard.index} has no row {offset}")


def _refused(run: str, shard: Shard) -> dict[int, str]:
    """The stage of each rejected row of a shard, by its number in the shard."""
    path = files.join(run, "rejected", part_name(shard.index))
    if not files.exists(path):
        return {}
    table = read_whole(path, ["file", "row", "stage"]).to_pydict()
    reasons: dict[int, str] = {}
    first = 0
    rows = dict(zip(zip(table["file"], table["row"], strict=True), table["stage"], strict=True))
    for piece in shard.pieces:
        reasons |= {
            first + row - piece.start: stage
            for (name, row), stage in rows.items()
            if name == piece.name and piece.start <= row < piece.start + piece.rows
        }
        first += piece.rows
    return reasons


def _part_rows(run: str, shard: int) -> int:
    with files.open_arrow(files.join(run, "attributions", part_name(shard))) as source:
        return int(pq.read_metadata(source).num_rows)


def _compare(run: str, plan: Plan, places: Sequence[_Place], tolerance: float) -> _Tally:
    tally = _Tally()
    if not places:
        return tally
    by_row = {(place.piece.name, place.row): place for place in places}
    by_ordinal = {place.ordinal: place for place in places}
    with runtime(plan.spec) as loaded:
        rejected: list[Rejection] = []
        for rows in _drawn_rows(plan, places, len(loaded.target_names), rejected):
            explained, problems = explain_rows(rows, loaded)
            rejected.extend(problems)
            if explained is not None:
                _compare_batch(run, loaded, explained, by_ordinal, tolerance, tally)
    for problem in rejected:
        place = by_row.get((problem.file, problem.row))
        if place is None:
            continue
        if place.stage == problem.stage:
            tally.rejected += 1
        else:
            was = "explained" if place.stage is None else f"rejected at the stage {place.stage}"
            statement = f"{place.in_words} was {was}, and is rejected now"
            tally.problems.append(f"{statement} at the stage {problem.stage}: {problem.reason}")
    return tally


def _drawn_rows(
    plan: Plan, places: Sequence[_Place], targets: int, rejected: list[Rejection]
) -> Iterator[Rows]:
    """The drawn rows that can be decoded, in batches as large as the run's."""
    wanted = np.array([place.ordinal for place in places])
    held: list[Rows] = []
    for stretch in _stretches(places):
        reading = replace(plan.spec, batch_size=_READ)
        for rows in read_batches(Shard(0, (stretch,)), reading, targets, rejected):
            chosen = np.isin(rows.ordinals, wanted)
            if chosen.any():
                held.append(rows.take(chosen))
        while sum(map(len, held)) >= plan.spec.batch_size:
            whole = join(held)
            yield whole.take(slice(0, plan.spec.batch_size))
            held = [whole.take(slice(plan.spec.batch_size, None))]
            held = [rows for rows in held if len(rows)]
    if held:
        yield join(held)


def _stretches(places: Sequence[_Place]) -> Iterator[Piece]:
    """Pieces that hold the drawn rows, and few others."""
    group: list[_Place] = []
    for place in places:
        if group and (place.piece is not group[-1].piece or place.row - group[-1].row > _NEAR):
            yield _stretch(group)
            group = []
        group.append(place)
    yield _stretch(group)


def _stretch(group: Sequence[_Place]) -> Piece:
    piece, first = group[0].piece, group[0].row
    ahead = first - piece.start
    return replace(
        piece,
        start=first,
        rows=group[-1].row - first + 1,
        ordinal=piece.ordinal + ahead,
        skip=piece.skip if piece.format == PARQUET else piece.skip + ahead,
    )


def _compare_batch(
    run: str,
    loaded: Runtime,
    explained: tuple[Rows, Any, np.ndarray],
    by_ordinal: Mapping[int, _Place],
    tolerance: float,
    tally: _Tally,
) -> None:
    rows, attribution, targets = explained
    spec, per_example = loaded.spec, targets.shape[1]
    arrow = attribution_schema(spec.schema, spec.output, spec.metadata)
    split = spec.schema.split(attribution.values)
    given = (rows, attribution, split, targets, loaded.target_names, spec.schema)
    table = attribution_table(*given, spec.output, arrow)
    full = table
    if isinstance(spec.output.attributions, int):
        output = replace(spec.output, attributions="all")
        full = attribution_table(*given, output, attribution_schema(spec.schema, output, {}))

    @lru_cache(maxsize=1)  # rows come in input order, part by part
    def open_part(shard: int) -> _Part:
        return _Part(files.join(run, "attributions", part_name(shard)))

    for number, ordinal in enumerate(rows.ordinals.tolist()):
        place = by_ordinal[ordinal]
        if place.stage is not None:
            statement = f"{place.in_words} was rejected at the stage {place.stage}, and is explained now"
            tally.problems.append(statement)
            continue
        first, start = number * per_example, (place.position - place.before) * per_example
        stored = open_part(place.shard).rows(start, per_example)
        mine = table.slice(first, per_example)
        if same_bits(stored, mine):
            tally.exact += 1
            continue
        spread = loaded.reference.spread[targets[number]]
        whole = full.slice(first, per_example)
        worst, beyond, column = difference(stored, mine, whole, spread, spec.output)
        tally.largest = max(tally.largest, worst)
        if beyond <= tolerance:
            tally.near += 1
        else:
            size = "" if np.isinf(worst) else f" by {worst:.2g} of max(|φ|, the score's spread)"
            tally.problems.append(f"{place.in_words} ({rows.ids[number]}): {column} differs{size}")


class _Part:
    """A part of the table, read a row group at a time."""

    def __init__(self, path: str) -> None:
        # Without Arrow's threads: one that closes a remote file late may abort a process at its end.
        self._file = pq.ParquetFile(files.open_arrow(path), pre_buffer=False)
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._held: tuple[int, pa.Table] | None = None

    def rows(self, start: int, count: int) -> pa.Table:
        """Reads some rows, which may lie in several row groups."""
        parts = []
        first = int(np.searchsorted(self._starts, start, "right")) - 1
        while count and first < len(self._starts) - 1:
            if self._held is None or self._held[0] != first:
                self._held = first, self._file.read_row_group(first, use_threads=False)
            part = self._held[1].slice(start - int(self._starts[first]), count)
            parts.append(part)
            start, count, first = start + len(part), count - len(part), first + 1
        return pa.concat_tables(parts)
