"""A few hundred broken configs, the same each time; `python -m tests.fuzz.fuzz_configs` tries many more."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import yaml

from pipeline.cli import commands as cli
from tests.fuzz import fuzz_configs


def test_broken_configs_end_in_one_line(tmp_path: Path) -> None:
    report = fuzz_configs.fuzz(tmp_path, fuzz_configs.world(tmp_path), 1, count=240)
    for number, text, wrong in report.findings:
        print(f"--- {number}: {wrong}\n{text[:3000]}")
    assert not report.findings
    assert report.tried == 240
    # Configs that are merely refused at their first line would test little else.
    assert report.statuses["plan 0"] >= 10
    assert report.statuses["plan 2"] >= 100
    assert report.statuses["explain 0"] >= 1


def test_what_is_mutated_is_well_before(tmp_path: Path) -> None:
    for config in fuzz_configs.world(tmp_path):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        assert cli.run(["plan", str(tmp_path / "config.yaml")]) == 0


def test_the_same_number_makes_the_same_config(tmp_path: Path) -> None:
    configs = fuzz_configs.world(tmp_path)
    texts = [fuzz_configs.mutated(random.Random(number), configs) for number in (*range(50), *range(50))]
    assert texts[:50] == texts[50:]
    assert len(set(texts)) > 45


@pytest.mark.parametrize(
    ("status", "out", "err", "wrong"),
    [
        (0, "fine\n", "", None),
        (2, "", "error: this is wrong\n", None),
        (3, "", "error: KeyError: x\n", "status 3"),
        (None, "", "", "status None"),
        (2, "", "", "no error"),
        (2, "", "error: a\nand more\n", "no error"),
        (2, "half a table\n", "error: a\n", "more than a line"),
        (2, "", "error: a\nerror: b\n", "more than a line"),
        (0, "", "Traceback (most recent call last):\n", "a traceback"),
        (0, "\x1b[31m", "", "a terminal obeys"),
        (2, "", "error: " + "x" * 3000, "a line of 3,007"),
    ],
)
def test_the_judge_judges(status: int | None, out: str, err: str, wrong: str | None) -> None:
    found = fuzz_configs._judge("plan", status, out, err)
    assert (found is None) if wrong is None else (found is not None and wrong in found)


def busy(seconds: float) -> None:
    """Takes a processor for a while, as a config that hangs would for ever."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_the_watchdog_bites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = fuzz_configs.world(tmp_path)
    monkeypatch.setattr(fuzz_configs, "SLOWEST", 0.2)
    monkeypatch.setattr(fuzz_configs.cli, "run", lambda line: busy(5.0))
    ((_, _, wrong),) = fuzz_configs.fuzz(tmp_path, configs, 1, count=1).findings
    assert wrong == "took too long"
    monkeypatch.setattr(fuzz_configs, "MOST_MEMORY", 64 << 20)
    monkeypatch.setattr(fuzz_configs.cli, "run", lambda line: len(bytearray(128 << 20)))
    ((_, _, wrong),) = fuzz_configs.fuzz(tmp_path, configs, 1, count=1).findings
    assert "MemoryError" in wrong
