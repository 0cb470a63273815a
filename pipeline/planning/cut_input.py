"""Cuts the input of a run into shards, after the shards of the run that it adds to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.run_directory.increments import Grown, Increment
from transforms.sources.base import InputFile, Shard
from transforms.sources.shards import cut

#: An increment: its files, its rows per shard, and its number of rows.
Cut = tuple[Sequence[InputFile], int, int]


@dataclass(frozen=True)
class CutInput:
    """An input in shards.

    Args:
      increments: All increments of the run; those of an earlier run come first.
      shards: The shards of the last increment, in input order; empty if nothing was added.
      shard_rows: Rows per shard.
      fingerprint: The fingerprint of the run.
    """

    increments: tuple[Increment, ...]
    shards: Sequence[Shard]
    shard_rows: int
    fingerprint: str

    @property
    def rows(self) -> int:
        """Rows of all increments."""
        return sum(part.rows for part in self.increments)


def cut_input(
    base: Grown | None,
    added: Sequence[InputFile],
    rows: int,
    shard_rows: int,
    fingerprint_of: Callable[[Sequence[Cut]], str],
) -> CutInput:
    """Cuts files that are not explained yet into shards, numbered after the explained ones.

    Args:
      base: The committed run that is added to; None explains everything.
      added: The files that are not explained yet.
      rows: Rows to read from the added files.
      shard_rows: Rows per shard.
      fingerprint_of: Computes the fingerprint of a run with given cuts.
    """
    cuts: list[Cut] = base.cuts if base else []
    increments = base.increments if base else ()
    if increments and not added:
        return CutInput(increments, [], shard_rows, fingerprint_of(cuts))
    shards = cut(
        added,
        shard_rows,
        rows,
        first_shard=sum(part.shards for part in increments),
        first_ordinal=sum(part.rows for part in increments),
    )
    fingerprint = fingerprint_of([*cuts, (added, shard_rows, rows)])
    own = Increment(fingerprint[:16], len(added), rows, shard_rows, len(shards))
    return CutInput((*increments, own), shards, shard_rows, fingerprint)


def kept_shard_rows(
    base: Grown | None,
    added: Sequence[InputFile],
    rows: int,
    earlier: Mapping[str, int],
    fingerprint_of: Callable[[Sequence[Cut]], str],
) -> int | None:
    """The rows per shard of an earlier attempt at this run, whose cut is kept; None without one.

    Args:
      base: The committed run that is added to.
      added: The files that are not explained yet.
      rows: Rows to read from the added files.
      earlier: Rows per shard, by fingerprint, of the runs at the output.
      fingerprint_of: Computes the fingerprint of a run with given cuts.
    """
    cuts: list[Cut] = base.cuts if base else []
    for fingerprint, shard_rows in earlier.items():
        if fingerprint_of([*cuts, (added, shard_rows, rows)]) == fingerprint:
            return shard_rows
    return None
