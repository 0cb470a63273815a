"""The input in shards: numbered after the run that is added to, and cut as an earlier run has cut it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.planning.cut_input import Cut, cut_input, kept_shard_rows
from pipeline.run_directory.increments import Grown
from transforms.sources.base import PARQUET, InputFile


def file(name: str, rows: int) -> InputFile:
    """A file of one row group."""
    return InputFile(f"/data/{name}", name, PARQUET, rows, 100 * rows, row_groups=(rows,))


def fingerprint(cuts: Sequence[Cut]) -> str:
    """A readable fingerprint: names, rows a shard and rows of each increment."""
    return "|".join(
        f"{'+'.join(f.name for f in files)}/{shard_rows}/{rows}" for files, shard_rows, rows in cuts
    )


def committed(*increments: dict[str, Any]) -> dict[str, Any]:
    """A manifest as far as it names increments."""
    return {"increments": list(increments)}


FIRST = {"run_id": "first", "files": 1, "rows": 10, "shard_rows": 4, "shards": 3}


def test_without_an_earlier_run_everything_is_cut() -> None:
    files = [file("a", 10), file("b", 5)]
    cut = cut_input(None, files, 15, 5, fingerprint)
    assert [shard.index for shard in cut.shards] == [0, 1, 2]
    assert sum(shard.rows for shard in cut.shards) == cut.rows == 15
    assert cut.fingerprint == "a+b/5/15"
    assert [(part.files, part.rows, part.shards) for part in cut.increments] == [(2, 15, 3)]


def test_a_limit_reads_the_first_rows_alone() -> None:
    cut = cut_input(None, [file("a", 10), file("b", 5)], 7, 5, fingerprint)
    assert sum(shard.rows for shard in cut.shards) == cut.rows == 7


def test_shards_and_rows_are_numbered_after_those_that_are_there() -> None:
    base = Grown(committed(FIRST), [file("a", 10), file("b", 6)], 1)
    cut = cut_input(base, base.added, 6, 3, fingerprint)
    assert [shard.index for shard in cut.shards] == [3, 4]
    assert cut.shards[0].pieces[0].ordinal == 10
    assert cut.fingerprint == "a/4/10|b/3/6"
    assert cut.rows == 16
    assert [part.run_id for part in cut.increments] == ["first", cut.fingerprint[:16]]


def test_a_run_without_new_files_stays_as_it_is() -> None:
    base = Grown(committed(FIRST), [file("a", 10)], 0)
    cut = cut_input(base, base.added, 0, 3, fingerprint)
    assert (list(cut.shards), cut.fingerprint, len(cut.increments), cut.rows) == ([], "a/4/10", 1, 10)


def test_a_run_that_goes_on_keeps_its_cut() -> None:
    files = [file("a", 10)]
    earlier = {"another run": 7, "a/4/10": 4}
    assert kept_shard_rows(None, files, 10, earlier, fingerprint) == 4
    assert kept_shard_rows(None, files, 9, earlier, fingerprint) is None
    assert kept_shard_rows(None, files, 10, {}, fingerprint) is None
