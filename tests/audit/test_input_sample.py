"""The sampled values of a real run: each row's slices are those that the run itself counted."""

from __future__ import annotations

from pathlib import Path

from pipeline.audit.nights import open_night
from pipeline.cli.commands import run as command
from tests.support import worlds


def test_rows_of_a_sample_are_in_the_slices_that_the_run_counted(tmp_path: Path) -> None:
    place = tmp_path / "run"
    slices = "[carrier, 'distance > 900', {column: distance, bins: [500, 900]}, [carrier, 'distance > 900']]"
    arguments = ["explain", str(worlds.trips()), "--output", str(place), "--set", f"input.slices={slices}"]
    assert command([*arguments, "--set", "output.sample=5000"]) == 0
    night = open_night(str(place))
    sample = night.inputs
    assert sample is not None
    counted = night.importance["rows"].groupby(level="slice").first()
    counted = counted[counted.index != ""]
    assert len(counted) > 6
    assert {name: int(member.sum()) for name, member in sample.slices.items() if name} == counted.to_dict()
    assert len(sample) == night.run.manifest["counts"]["rows_attributed"]
    assert "city" in sample.categorical
    assert "distance" not in sample.categorical
