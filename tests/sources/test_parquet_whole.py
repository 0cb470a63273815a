"""Small tables are read by the calling thread alone."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms.errors import UserError
from transforms.outputs.read_whole import read_whole
from transforms.storage import files


def numbers() -> pa.Table:
    return pa.table({f"c{i}": np.random.default_rng(i).random(2000) for i in range(8)})


def test_nothing_holds_the_file_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that lets it go while Python ends takes the process with it; `pq.read_table` fails this."""
    sink = io.BytesIO()
    pq.write_table(numbers(), sink, row_group_size=500)
    # Each time bytes of their own, which nobody else counts.
    data = [bytes(bytearray(sink.getbuffer())) for _ in range(500)]
    held = []
    for each in data:
        monkeypatch.setattr(files, "read_bytes", lambda path, each=each: each)
        before = sys.getrefcount(each)
        assert read_whole("a.parquet").num_rows == 2000
        held.append(sys.getrefcount(each) - before)
    assert held == [0] * 500


def test_some_columns_of_all_row_groups(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(numbers(), path, row_group_size=500)
    assert read_whole(path).equals(numbers())
    assert read_whole(path, ["c3", "c1"]).column_names == ["c3", "c1"]
    assert read_whole(path, ["c3"])["c3"].combine_chunks().equals(numbers()["c3"].combine_chunks())


def test_what_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(UserError, match="no such file"):
        read_whole(str(path))
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match=r"a\.parquet: is damaged: .*; attribeam verify"):
        read_whole(str(path))
    pq.write_table(numbers(), path)
    with pytest.raises(UserError, match="is damaged: it has no column c8; attribeam verify"):
        read_whole(str(path), ["c1", "c8"])


def test_a_damaged_page(tmp_path: Path) -> None:
    """Arrow raises OSError for some of these."""
    path = tmp_path / "a.parquet"
    pq.write_table(numbers(), path)
    data = bytearray(path.read_bytes())
    at = pq.read_metadata(path).row_group(0).column(3).dictionary_page_offset
    data[at : at + 60] = bytes(each ^ 0xFF for each in data[at : at + 60])
    path.write_bytes(data)
    with pytest.raises((OSError, pa.ArrowException)):
        pq.read_table(path)
    with pytest.raises(UserError, match=r"a\.parquet: is damaged: .*; attribeam verify"):
        read_whole(str(path))
