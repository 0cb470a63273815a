"""Rows a second of the readers alone, for the record: file to Arrow batches, nothing after them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.common import (
    Row,
    column_names,
    features,
    interleaved,
    per_second,
    rate,
    tensorflow,
    write_parquet,
)
from transforms.sources import globs
from transforms.sources.base import Column
from transforms.sources.inspection import inspect_files
from transforms.sources.read import describe_columns, read_piece
from transforms.sources.shards import cut

WIDTH = 50
BATCH = 4096
#: Different records; a file repeats them, for they take much longer to make than to read.
RECORDS = 10_000


def run(folder: Path, quick: bool) -> list[Row]:
    rows = 2 * RECORDS if quick else 20 * RECORDS
    write_parquet(folder / "reading.parquet", rows, WIDTH)
    _write_tfrecord(folder / "reading.tfrecord", rows)
    jobs = {name: _reader(folder, f"reading.{name}", rows) for name in ("parquet", "tfrecord")}
    for job in jobs.values():
        job()
    found = interleaved(jobs, 3)
    titles = {"parquet": "read Parquet", "tfrecord": "read TFRecord"}
    return [Row(f"{titles[k]}, {WIDTH} columns", per_second(v), v, "") for k, v in found.items()]


def _write_tfrecord(path: Path, rows: int) -> None:
    tf = tensorflow()
    names, records = column_names(WIDTH), []
    for row in features(RECORDS, WIDTH):
        example = tf.train.Example()
        for name, value in zip(names, row, strict=True):
            example.features.feature[name].float_list.value.append(value)
        records.append(example.SerializeToString())
    with tf.io.TFRecordWriter(str(path)) as writer:
        for index in range(rows):
            writer.write(records[index % RECORDS])


def _reader(folder: Path, name: str, rows: int) -> Callable[[], float]:
    inputs = inspect_files(globs.expand([name], str(folder)))
    columns = [Column(column, kind) for column, kind in describe_columns(inputs).items()]
    shards = cut(inputs, rows)

    def call(position: int) -> int:
        done = 0
        for shard in shards:
            for piece in shard.pieces:
                done += sum(batch.columns.num_rows for batch in read_piece(piece, columns, BATCH))
        if done != rows:
            raise RuntimeError(f"{done} of {rows} rows were read")
        return done

    return lambda: rate(call, rows)
