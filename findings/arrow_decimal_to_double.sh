#!/usr/bin/env bash
# pyarrow 25.0.1: a decimal cast to double is not always the nearest double.
#
# A reader would expect Decimal("481.4") to become 481.4, as it does by Python's float(), by Java's
# BigDecimal.doubleValue() and by DuckDB's CAST. Arrow multiplies by a power of ten that double cannot hold, and is off by
# one in the last place: 481.40000000000003. A tree that splits at 481.4 sends such a row the other way.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install -q pyarrow==25.0.1 duckdb==2.0.0
"$place/venv/bin/python" - <<'PYTHON'
import sys
from decimal import Decimal

import duckdb
import pyarrow as pa

print("pyarrow", pa.__version__, "duckdb", duckdb.__version__)
values = [Decimal(whole).scaleb(-1) for whole in range(-9999, 10000)]
arrow = pa.array(values, pa.decimal128(4, 1)).cast(pa.float64()).to_pylist()
duck = [row[0] for row in duckdb.sql("select (i / 10.0)::decimal(4, 1)::double from range(-9999, 10000) r(i)").fetchall()]
wrong = [(value, found) for value, found in zip(values, arrow) if found != float(value)]
print(f"{len(wrong)} of {len(values)} decimals of one place are another double by Arrow, such as {wrong[0]}")
print(sum(found != float(value) for value, found in zip(values, duck)), "of them by DuckDB")
sys.exit(0 if wrong else 1)
PYTHON
