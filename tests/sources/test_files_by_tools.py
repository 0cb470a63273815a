"""Random tables by pyarrow, pandas, polars and DuckDB are read as the tool reads them, or refused.

A longer run: `python -m tests.fuzz.files_by_tools`.
"""

from __future__ import annotations

import pytest

from tests.fuzz import files_by_tools


@pytest.mark.parametrize("tool", files_by_tools.TOOLS)
def test_random_tables_are_read_as_their_tool_reads_them(tool: str) -> None:
    columns, told = 0, []
    files_by_tools.REFUSED.clear()
    for seed in range(5):
        count, different = files_by_tools.run(seed, tool)
        columns, told = columns + count, told + different
    assert not told
    # Few are refused: durations beside a type that makes Arrow's own schema unreadable.
    assert sum(files_by_tools.REFUSED.values()) <= 2 < 25 <= columns
    assert all("holds durations" in line for line in files_by_tools.REFUSED)
