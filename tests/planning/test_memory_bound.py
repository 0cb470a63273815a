"""A run stays within the memory that its plan prints, and the plan prints no silly figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.runs.memory_cases import CASES, host_bytes, peak


@pytest.mark.parametrize("name", ["10,000 features", "pictures of 512 × 512", "a huge background"])
def test_a_run_stays_within_its_plan(name: str, tmp_path: Path) -> None:
    build, limit = CASES[name]
    config = build(tmp_path, True)
    planned, found = host_bytes(config), peak(config, limit)
    assert 0.35 * planned < found <= planned, f"{found / 1e6:,.0f} MB of {planned / 1e6:,.0f} MB"
