"""Writes the files of this folder, with PySpark 4.3.0 on Java 17: `python write.py`, in this folder.

They are what Spark writes by default: times of 96 bits, folders of partitions, long decimals.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pyspark.sql import SparkSession

HERE = Path(__file__).parent
TIMES = """
    select cast(id as double) a, 1.0D b, id,
           case id when 0 then timestamp'9999-12-31 00:00:00' when 1 then timestamp'1600-01-01 00:00:00'
                   when 2 then timestamp'0001-01-01 00:00:00' else timestamp'2026-11-30 10:20:30.5' end ts,
           case id when 0 then date'9999-12-31' when 1 then date'0001-01-01' else date'2026-11-30' end day,
           cast(id + 0.5 as decimal(38, 18)) price, interval '1 02:03:04.5' day to second as span,
           timestamp_ntz'2026-11-30 10:20:30' local, x'00ff' bytes, array(1.0D, 2.0D) pair
    from range(5)
"""
PARTS = """
    select cast(id as double) a, 1.0D b, 2025 + id % 2 as year, cast(id % 3 as int) month,
           case when id % 3 = 0 then null else concat('a/b ', id % 3) end place,
           date'2026-01-01' + cast(id % 2 as int) as day, lpad(cast(id % 2 as string), 5, '0') zip
    from range(6)
"""


def main() -> None:
    """Writes them anew."""
    spark = SparkSession.builder.master("local[1]").config("spark.sql.session.timeZone", "UTC").getOrCreate()
    tables = {"times": (TIMES, []), "parts": (PARTS, ["year", "month", "place", "day", "zip"])}
    for name, (query, columns) in tables.items():
        shutil.rmtree(HERE / name, ignore_errors=True)
        spark.sql(query).coalesce(1).write.partitionBy(*columns).parquet(str(HERE / name))
    # As it reads them itself.
    rows = spark.read.parquet(str(HERE / "parts")).orderBy("a").collect()
    print(*rows, sep="\n")
    print(*spark.read.parquet(str(HERE / "times")).selectExpr("id", "cast(ts as string)").collect(), sep="\n")


if __name__ == "__main__":
    main()
